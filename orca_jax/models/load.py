"""From a name to a model on the device."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from orca_jax.core.config import LOAD_FORMATS
from orca_jax.core.errors import ConfigError
from orca_jax.models.checkpoint import CheckpointInfo
from orca_jax.models.config import DecoderConfig
from orca_jax.models.decoder import Decoder
from orca_jax.models.dummy import fill_randomly
from orca_jax.models.scan import LayerForm, layer_form, stack_layers
from orca_jax.models.source import find_model
from orca_jax.models.weights import CheckpointWeights, Progress, fill, silent

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model whose parameters are on the device (or, as an outline, nowhere), and what its checkpoint says."""

    model: Decoder
    config: DecoderConfig
    info: CheckpointInfo
    dtype: np.dtype
    layers: LayerForm


def abstract_model(config: DecoderConfig, dtype: str | np.dtype = "float32", layers: LayerForm = "unrolled") -> Decoder:
    """A model without memory: its parameters are `ShapeDtypeStruct`s, good for lowering and counting."""

    def build() -> Decoder:
        model = Decoder(config, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))
        return stack_layers(model) if layers == "scan" else model

    return nnx.eval_shape(build)


def parameter_bytes(loaded: LoadedModel) -> int:
    return count_parameters(loaded.model) * loaded.dtype.itemsize


def count_parameters(model: nnx.Module) -> int:
    """Elements in all parameters, of an abstract model, too."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def load_model(
    model: str | Path | None,
    *,
    dtype: str = "auto",
    load_format: str = "auto",
    seed: int = 0,
    revision: str | None = None,
    layers: LayerForm | None = None,
    progress: Progress = silent,
) -> LoadedModel:
    """What `outline_model` describes, with its parameters on the default device; dummy weights are made from `seed`."""
    outline, weights = outline_model(model, dtype=dtype, load_format=load_format, revision=revision, layers=layers)
    return fill_model(outline, weights, seed, progress)


def outline_model(
    model: str | Path | None,
    *,
    dtype: str = "auto",
    load_format: str = "auto",
    revision: str | None = None,
    layers: LayerForm | None = None,
) -> tuple[LoadedModel, CheckpointWeights | None]:
    """What `find_model` finds under the name, without memory, and its checked weights; None where they are made up.

    `dtype` "auto" is what the checkpoint asks for, else what its weights are stored in. `load_format` "dummy" needs only
    a config. `layers` is the layers' form, None the one that suits the backend. Raises CheckpointError or ConfigError.
    """
    if load_format not in LOAD_FORMATS:
        raise ConfigError(f"load_format = {load_format!r}, but one of {', '.join(LOAD_FORMATS)} is needed")
    source = find_model(model, load_format=load_format, revision=revision)
    family, info = source.read()
    device = jax.devices()[0]
    form = layers or layer_form(device.platform, device.device_kind, info.config)
    weights = None
    if load_format != "dummy" and not source.is_preset:
        weights = CheckpointWeights(source.path, family, info.config)
        info = replace(info, fingerprint=f"{info.fingerprint}-{weights.digest}")
    kind = run_dtype(dtype, info, "bfloat16" if weights is None else weights.dtype().name)
    return LoadedModel(abstract_model(info.config, kind, form), info.config, info, kind, form), weights


def fill_model(
    outline: LoadedModel, weights: CheckpointWeights | None, seed: int = 0, progress: Progress = silent
) -> LoadedModel:
    """The outlined model with its parameters in memory: from `weights`, or random ones from `seed`."""
    if weights is None:
        return replace(outline, model=fill_randomly(outline.model, outline.dtype, seed, progress))
    return replace(outline, model=fill(weights, outline.model, outline.dtype, progress))


def run_dtype(asked: str, info: CheckpointInfo, fallback: str) -> np.dtype:
    """The type of weights and products: what was asked for, else what the checkpoint says, else `fallback`."""
    name = (info.dtype or fallback) if asked == "auto" else asked
    if name not in DTYPES:
        raise ConfigError(f"dtype = {asked!r}, but one of auto, {', '.join(DTYPES)} is needed")
    return np.dtype(DTYPES[name])
