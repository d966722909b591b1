"""The step with one of its parts left out, so that the part's share of an iteration is the difference."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from orca_jax.execution.forward import forward
from orca_jax.execution.local import LocalExecutor
from orca_jax.execution.packing import packed_size, token_rows, unpack
from orca_jax.execution.programs import abstract
from orca_jax.execution.sampler import sample
from orca_jax.execution.step import StepShape, pack_output, remember, resolve_tokens

PARTS = ("attention", "sampling")


def without(part: str, executor: LocalExecutor, shape: StepShape) -> Callable[..., tuple[Any, Array, Array]]:
    """A step of the executor's contract, less "attention" (the write of K and V included) or less "sampling"."""

    def step(parameters: Any, cache: Any, history: Array, constraints: Any, packed: Array) -> tuple[Any, Array, Array]:
        model = nnx.merge(executor.graph, jax.tree.unflatten(executor.treedef, parameters))
        rows = unpack(packed, shape.bucket, shape.pages_per_row)
        token_row, position, real = token_rows(rows)
        tokens, history = resolve_tokens(rows, token_row, position, real, history)
        if part == "attention":
            layers = model.config.num_layers
            hidden, _ = model(tokens, position, [None] * layers, [pass_on] * layers)
        else:
            hidden, cache = forward(model, tokens, position, cache, rows, shape.attention)
        logits = model.logits(hidden[jnp.maximum(rows.cu_q_lens[1:] - 1, 0)])
        if part == "sampling":
            return cache, remember(rows.kv_lens, rows, history), logits
        sampled = sample(logits, rows, history, constraints)
        return cache, remember(sampled.token, rows, history), pack_output(sampled)

    return step


def pass_on(q: Array, k: Array, v: Array, kv: None) -> tuple[Array, None]:
    """No attention, but all of q, k and v are used, or XLA would not compute them."""
    return q + jnp.repeat(k + v, q.shape[1] // k.shape[1], axis=1), kv


def compile_without(part: str, executor: LocalExecutor, shape: StepShape) -> Callable[[Any], Array]:
    """Each call runs the reduced step on the executor's own memory, `packed` being the iteration, and waits for it."""
    e = executor
    arguments = (e.parameters, e.cache, e.history, e.constraints)
    size = jax.ShapeDtypeStruct((packed_size(shape.bucket, shape.pages_per_row),), jnp.int32)
    compiled = jax.jit(without(part, e, shape), donate_argnums=(1, 2)).lower(*abstract(arguments), size).compile()

    def run(packed: Any) -> Array:
        e.cache, e.history, output = compiled(e.parameters, e.cache, e.history, e.constraints, packed)
        return jax.block_until_ready(output)

    return run
