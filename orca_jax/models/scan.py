"""The other form of the same decoder: layers stacked as `[L, ...]` and run by `lax.scan`.

A scan compiles one layer instead of L, and on TPUs runs no slower. On CPU and GPU, a slice of a stacked weight is copied
before the product (XLA:GPU's program for two layers of Llama 3.1 8B on an H200 has 418 MB of temporaries, 25 MB unrolled),
so there the layers stay unrolled. The K/V cache travels in the carry, all layers in one array: scanned in and out it would
exist twice.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int

from orca_jax.core.errors import ConfigError
from orca_jax.models.config import DecoderConfig
from orca_jax.models.decoder import Decoder, DecoderLayer

LayerForm = Literal["unrolled", "scan"]

LayerAttend = Callable[[Array, Array, Array, Any, Int[Array, ""]], tuple[Array, Any]]
"""`(q, k, v, kv, layer) -> (y, kv)`: as `Attend`, but `kv` holds all layers and `layer` says which one is meant."""


COPYING = ("TPU7x",)
"""Kinds of TPU whose compiler lays all stacked weights out anew in every step, (16, 128) tiles instead of (8, 128)."""


def layer_form(platform: str, kind: str, config: DecoderConfig) -> LayerForm:
    """The form that suits a device, given by its platform and kind as JAX has them: the one place where it is chosen."""
    scans = platform == "tpu" and kind not in COPYING
    return "scan" if scans and not has_mixed_windows(config) else "unrolled"


def has_mixed_windows(config: DecoderConfig) -> bool:
    return len(set(config.sliding_window)) > 1


def stack_layers(model: Decoder) -> Decoder:
    """`model` with its layers as one layer whose parameters are `[L, ...]`, their first logical axis "layer".

    The parameters are copied; the loader does it the other way round, and stacks a model without memory.
    Raises ConfigError where the layers are not alike.
    """
    if has_mixed_windows(model.config):
        raise ConfigError("layers = 'scan' needs the same attention window in all layers (use layers = 'unrolled')")
    split = [nnx.split(layer) for layer in model.layers]
    state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[state for _, state in split])
    for _, variable in nnx.to_flat_state(state):
        variable.set_metadata(axes=("layer", *variable.get_metadata()["axes"]))
    stacked = nnx.merge(*nnx.split(model))  # a second module over the same arrays: the one given stays as it is
    stacked.layers = nnx.merge(split[0][0], state)
    return stacked


def scan_layers(
    model: Decoder, tokens: Int[Array, " T"], positions: Int[Array, " T"], kv: Any, attend: LayerAttend
) -> tuple[Float[Array, "T D"], Any]:
    """Final normed hidden states and the updated cache, of a model that `stack_layers` made."""
    x, turn = model.embed(tokens, positions)
    graph, state = nnx.split(model.layers)

    def body(carry: tuple[Array, Any], layer: tuple[nnx.State, Array]) -> tuple[tuple[Array, Any], None]:
        x, kv = carry
        part: DecoderLayer = nnx.merge(graph, layer[0])
        return part(x, turn, kv, lambda q, k, v, kv: attend(q, k, v, kv, layer[1])), None

    (x, kv), _ = lax.scan(body, (x, kv), (state, jnp.arange(model.config.num_layers)))
    return model.norm(x), kv
