"""From a name to a model on the device."""

from dataclasses import dataclass, replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from orca_jax.core.errors import ConfigError
from orca_jax.models.checkpoint import CheckpointInfo, read_checkpoint
from orca_jax.models.config import DecoderConfig
from orca_jax.models.decoder import Decoder
from orca_jax.models.dummy import fill_randomly
from orca_jax.models.weights import CheckpointWeights, Progress, fill, silent

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model whose parameters are on the device, and what its checkpoint says."""

    model: Decoder
    config: DecoderConfig
    info: CheckpointInfo
    dtype: np.dtype


def abstract_model(config: DecoderConfig, dtype: str | np.dtype = "float32") -> Decoder:
    """A model without memory: its parameters are `ShapeDtypeStruct`s, good for lowering and counting."""
    return nnx.eval_shape(lambda: Decoder(config, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0)))


def load_model(
    folder: str | Path,
    *,
    dtype: str = "auto",
    load_format: str = "auto",
    seed: int = 0,
    progress: Progress = silent,
) -> LoadedModel:
    """The model in a Hugging Face folder, with its parameters in `dtype` on the default device.

    `dtype` "auto" is what config.json asks for, else what the weights are stored in. `load_format` "dummy" needs only a
    config.json and makes weights from `seed`. Raises CheckpointError or ConfigError before anything is allocated.
    """
    if load_format not in ("auto", "safetensors", "dummy"):
        raise ConfigError(f"load_format = {load_format!r}, but one of auto, safetensors, dummy is needed")
    family, info = read_checkpoint(Path(folder))
    if load_format == "dummy":
        kind = run_dtype(dtype, info, "bfloat16")
        model = fill_randomly(abstract_model(info.config, kind), kind, seed, progress)
        return LoadedModel(model, info.config, info, kind)
    weights = CheckpointWeights(Path(folder), family, info.config)
    kind = run_dtype(dtype, info, weights.dtype().name)
    model = fill(weights, abstract_model(info.config, kind), kind, progress)
    return LoadedModel(model, info.config, replace(info, fingerprint=f"{info.fingerprint}-{weights.digest}"), kind)


def run_dtype(asked: str, info: CheckpointInfo, fallback: str) -> np.dtype:
    """The type of weights and products: what was asked for, else what the checkpoint says, else `fallback`."""
    name = (info.dtype or fallback) if asked == "auto" else asked
    if name not in DTYPES:
        raise ConfigError(f"dtype = {asked!r}, but one of auto, {', '.join(DTYPES)} is needed")
    return np.dtype(DTYPES[name])
