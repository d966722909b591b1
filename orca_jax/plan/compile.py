"""The engine's own step, lowered and compiled for hardware that is only described, with arguments that have no memory."""

import math
import re
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh

from orca_jax.core.errors import ConfigError, EngineError
from orca_jax.execution.buckets import Bucket
from orca_jax.execution.forward import AttentionOptions
from orca_jax.execution.options import ExecutorOptions
from orca_jax.execution.outline import StepOutline
from orca_jax.execution.sampler import greedy, sample
from orca_jax.models.config import DecoderConfig
from orca_jax.models.decoder import Decoder
from orca_jax.models.load import abstract_model
from orca_jax.models.scan import LayerForm, layer_form
from orca_jax.models.sharding import tensor_mesh
from orca_jax.plan.hardware import GiB, find_hardware
from orca_jax.plan.program_text import ProgramText
from orca_jax.plan.report import Refusal, StepReport
from orca_jax.plan.topologies import described_devices
from pallas_kernels.ragged_paged_attention import pages_dtype, resolve

UNITS = {"K": 2**10, "M": 2**20, "G": GiB, "T": 2**40}
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"
NEEDED = re.compile(r"(?:total memory required for [\w ]+ \(|Used )([\d.]+)([KMGT])")
AVAILABLE = re.compile(r"(?:exceeds available HBM \(| of )([\d.]+)([KMGT])")


@dataclass(frozen=True, slots=True)
class StepSpec:
    """A step to compile: model, shapes, hardware. Lengths are in tokens, `num_pages` is what each layer has.

    `implementation` and `layers` left at None are what an engine would choose on that hardware. `greedy` leaves all of the
    sampler out but the likeliest token, which is most of what compiling a few layers takes.
    """

    config: DecoderConfig
    dtype: str
    bucket: Bucket
    num_pages: int
    page_size: int
    max_model_len: int
    hardware: str
    num_devices: int = 1
    implementation: str | None = None
    layers: LayerForm | None = None
    greedy: bool = False


def compile_step(spec: StepSpec) -> StepReport | Refusal:
    """Compile the step and report what came of it; a `Refusal` where the compiler finds that it does not fit.

    Raises ConfigError for hardware that is not described, a model that cannot be split so, or attention that cannot run
    there, and its subclass MissingCompilerError where the compiler is not installed.
    """
    mesh = tensor_mesh(described_devices(spec.hardware, spec.num_devices))
    outline = StepOutline(*outlined(spec, mesh))
    attention = outline.options.attention
    about = (spec.hardware, spec.num_devices, attention.implementation, attention.layers)
    try:
        compiled = outline.step(spec.bucket, greedy if spec.greedy else sample).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if OUT_OF_MEMORY not in str(error):
            raise
        reason = str(error)
        return Refusal(*about, in_bytes(NEEDED.search(reason)), in_bytes(AVAILABLE.search(reason)), reason)
    memory, written = compiled.memory_analysis(), compiled.as_text()
    if memory is None or written is None:
        raise EngineError(f"the compiler for {spec.hardware} does not say what it made (another version of JAX may)")
    text = ProgramText(written)
    return StepReport(
        *about,
        parameter_bytes=sum(map(share_bytes, outline.memory.parameters)),
        cache_bytes=sum(map(share_bytes, outline.memory.cache)),
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        aliased_bytes=memory.alias_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
        memory_bytes=find_hardware(spec.hardware, spec.num_devices).memory_bytes,
        collectives=text.collectives(),
        text=text,
    )


def outlined(spec: StepSpec, mesh: Mesh) -> tuple[Decoder, ExecutorOptions]:
    """The model without memory and an executor's options, on the devices of `mesh`."""
    implementation, kv_dtype = chosen_attention(spec, mesh)
    device = mesh.devices.flat[0]
    layers = spec.layers or layer_form(device.platform, device.device_kind, spec.config)
    options = ExecutorOptions(
        buckets=(spec.bucket,),
        num_slots=2 * spec.bucket.rows,
        num_pages=spec.num_pages,
        max_model_len=spec.max_model_len,
        attention=AttentionOptions(implementation, spec.page_size, layers=layers, mesh=mesh),
        kv_dtype=kv_dtype,
    )
    return abstract_model(spec.config, spec.dtype, layers), options


def chosen_attention(spec: StepSpec, mesh: Mesh) -> tuple[str, np.dtype]:
    """The implementation that would run there, and the type in which it keeps pages.

    Raises ConfigError where the one asked for cannot.
    """
    try:
        with jax.set_mesh(mesh):
            c = spec.config
            name = resolve(spec.implementation, head_dim=c.head_dim, page_size=spec.page_size, dtype=spec.dtype)
            return name, pages_dtype(name, spec.dtype)
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(f"implementation = {spec.implementation!r}: {error}") from error


def share_bytes(x: jax.ShapeDtypeStruct) -> int:
    """Bytes of one device's part of an array."""
    return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize


def in_bytes(found: re.Match[str] | None) -> int | None:
    """A size as the compiler writes it: `17.96G` are GiB."""
    return None if found is None else int(float(found[1]) * UNITS[found[2]])
