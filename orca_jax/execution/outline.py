"""The step's arguments without memory, and the step as a program: the same for devices at hand and for described ones.

Over a mesh, parameters are split as `models/sharding.py` says, the cache by K/V heads; everything else is the same on
every device, what the step returns included.
"""

from contextlib import nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from orca_jax.core.errors import ConfigError
from orca_jax.execution.buckets import Bucket
from orca_jax.execution.constraints import Constraints, allocate_constraints, write_line
from orca_jax.execution.forward import AttentionOptions
from orca_jax.execution.halves import make_model_half, make_sampling_half
from orca_jax.execution.options import ExecutorOptions
from orca_jax.execution.packing import WIDTH, packed_size
from orca_jax.execution.programs import Program
from orca_jax.execution.sampler import Sampler, sample
from orca_jax.execution.step import StepShape, make_step
from orca_jax.models.config import DecoderConfig
from orca_jax.models.decoder import Decoder
from orca_jax.models.sharding import RULES, heads_spec, parameter_shardings
from pallas_kernels.ragged_paged_attention import heads_axis, pages_shape


class StepMemory(NamedTuple):
    """What stays on the devices between iterations, as `ShapeDtypeStruct`s: the step's arguments up to the iteration."""

    parameters: tuple[jax.ShapeDtypeStruct, ...]
    cache: list[jax.ShapeDtypeStruct]
    history: jax.ShapeDtypeStruct
    constraints: Constraints


class StepOutline:
    """A model, abstract or real, and the options it is to run with, from which every program follows.

    Raises ConfigError where the model cannot be split over the mesh, or its pages cannot be had.
    """

    def __init__(self, model: Decoder, options: ExecutorOptions):
        self.config, self.options = model.config, options
        self.graph, state = nnx.split(model)
        leaves, self.treedef = jax.tree.flatten(state)
        mesh = options.mesh
        self.whole = None if mesh is None else NamedSharding(mesh, PartitionSpec())
        split = [None] * len(leaves) if mesh is None else parameter_shardings(model, self.config, mesh)
        slots, vocab = options.num_slots, self.config.vocab_size
        self.memory = StepMemory(
            parameters=tuple(struct(x, sharding) for x, sharding in zip(leaves, split, strict=True)),
            cache=cache_outline(self.config, options.attention, options.num_pages, options.kv_dtype),
            history=struct(jax.ShapeDtypeStruct((slots, options.max_model_len + 1), jnp.int32), self.whole),
            constraints=self.same_everywhere(jax.eval_shape(lambda: allocate_constraints(slots, vocab))),
        )

    def step(self, bucket: Bucket, sampler: Sampler = sample) -> Program:
        """The step for one bucket; cache and token table are donated. To serve, it takes the whole `sampler`."""
        o = self.options
        packed = jax.ShapeDtypeStruct((packed_size(bucket, o.pages_per_row),), jnp.int32)
        return Program(
            f"step of {bucket.tokens} tokens in {bucket.rows} rows",
            make_step(self.graph, self.treedef, StepShape(bucket, o.pages_per_row, o.attention), sampler),
            (*self.memory, self.same_everywhere(packed)),
            donate=(1, 2),
            results=None if o.mesh is None else ([x.sharding for x in self.memory.cache], self.whole, self.whole),
            mesh=o.mesh,
        )

    def model_half(self, bucket: Bucket) -> Program:
        """The step up to the logits; cache and token table are donated."""
        o, m = self.options, self.memory
        packed = jax.ShapeDtypeStruct((packed_size(bucket, o.pages_per_row),), jnp.int32)
        cache = [x.sharding for x in m.cache]
        return Program(
            f"model of {bucket.tokens} tokens in {bucket.rows} rows",
            make_model_half(self.graph, self.treedef, StepShape(bucket, o.pages_per_row, o.attention)),
            (m.parameters, m.cache, m.history, self.same_everywhere(packed)),
            donate=(1, 2),
            results=None if o.mesh is None else (cache, self.whole, self.whole, self.logits(bucket.rows).sharding),
            mesh=o.mesh,
        )

    def sampling_half(self, rows: int) -> Program:
        """The rest of the step, for so many rows; the token table is donated."""
        m, V = self.memory, self.config.vocab_size
        columns, mask = (jax.ShapeDtypeStruct((rows, n), jnp.int32) for n in (WIDTH, -(-V // 32)))
        return Program(
            f"choice of {rows} tokens",
            make_sampling_half(self.options.mesh),
            (self.logits(rows), m.history, m.constraints, *self.same_everywhere((columns, mask))),
            donate=(1,),
            results=self.whole,
            mesh=self.options.mesh,
        )

    def logits(self, rows: int) -> jax.ShapeDtypeStruct:
        """What the first half hands to the second: float32, over a mesh split by vocabulary where that can be."""
        mesh, V = self.options.mesh, self.config.vocab_size
        split = None if mesh is None or V % mesh.size else NamedSharding(mesh, PartitionSpec(None, RULES["vocab"]))
        return jax.ShapeDtypeStruct((rows, V), jnp.float32, sharding=split or self.whole)

    def write_constraints(self) -> Program:
        """The program that writes one slot's line of the constraints' tables."""
        tables = self.memory.constraints
        line = tuple(jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in tables)
        slot = jax.ShapeDtypeStruct((), jnp.int32)
        arguments = (tables, *self.same_everywhere((slot, line)))
        return Program("constraints", write_line, arguments, donate=(0,), results=self.whole, mesh=self.options.mesh)

    def same_everywhere(self, tree: Any) -> Any:
        return jax.tree.map(lambda x: struct(x, self.whole), tree)


def struct(x: Array | jax.ShapeDtypeStruct, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def cache_outline(
    config: DecoderConfig, attention: AttentionOptions, num_pages: int, kv_dtype: Any
) -> list[jax.ShapeDtypeStruct]:
    """An array of pages for each layer, or one with all layers' pages in a row where the layers are scanned.

    Raises ConfigError for pages that the implementation cannot have.
    """
    scanned = attention.layers == "scan"
    arrays, pages = (1, config.num_layers * num_pages) if scanned else (config.num_layers, num_pages)
    name, mesh = attention.implementation, attention.mesh
    try:
        with nullcontext() if mesh is None else jax.set_mesh(mesh):  # a layout may depend on the hardware
            shape = pages_shape(name, pages, attention.page_size, config.num_kv_heads, config.head_dim)
    except ValueError as error:
        raise ConfigError(f"attention {name!r} cannot serve this: {error}") from error
    sharding = None if mesh is None else NamedSharding(mesh, heads_spec(heads_axis(name)))
    return [jax.ShapeDtypeStruct(shape, jnp.dtype(kv_dtype), sharding=sharding)] * arrays


def page_bytes(config: DecoderConfig, attention: AttentionOptions, kv_dtype: Any) -> int:
    """Bytes of one page in all layers and on all devices, whatever the implementation pads. ConfigError as above."""
    return sum(x.size * x.dtype.itemsize for x in cache_outline(config, attention, 1, kv_dtype))
