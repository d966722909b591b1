"""Rotary frequencies: which angle a position turns each pair of elements by, under every scaling that checkpoints use.

A token's angle depends on nothing but its own position, so that neither chunking nor company can change an answer. For
dynamic NTK that decides an ambiguity: its base grows with the length of the sequence, and the length here is the token's
own (position + 1). That is what decoding token by token always did; a whole prompt longer than the original context is
treated as if it had been fed one token at a time.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from orca_jax.models.config import RopeConfig
from orca_jax.models.layers import Rotation


def rotation(rope: RopeConfig, head_dim: int, positions: Int[Array, " T"]) -> Rotation:
    """Cosines and sines `f32[T, C / 2]` for each token's position, times the attention factor (yarn)."""
    position = positions[:, None].astype(jnp.float32)
    angles = position * jnp.asarray(inverse_frequencies(rope, head_dim), jnp.float32)[None]
    if rope.kind == "dynamic":
        angles = angles * _ntk(rope, head_dim, position)
    factor = attention_factor(rope)
    return jnp.cos(angles) * factor, jnp.sin(angles) * factor


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> Float[np.ndarray, " half"]:
    """Radians per position for each pair of elements (for "dynamic": within the original context)."""
    plain = rope.theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if rope.kind == "linear":
        return plain / rope.factor
    if rope.kind == "yarn":
        return _between(plain / rope.factor, plain, _yarn_share(rope, head_dim))
    if rope.kind == "llama3":
        return _between(plain / rope.factor, plain, _llama3_share(rope, plain))
    return plain


def attention_factor(rope: RopeConfig) -> float:
    """What yarn multiplies queries and keys by, so that scores keep their temperature over longer contexts."""
    if rope.kind != "yarn":
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return _mscale(rope.factor, rope.mscale) / _mscale(rope.factor, rope.mscale_all_dim)
    return _mscale(rope.factor, 1.0)


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1.0 else 0.1 * weight * math.log(factor) + 1.0


def _between(stretched: np.ndarray, plain: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Share 1 keeps a frequency, share 0 stretches it."""
    return stretched * (1.0 - share) + plain * share


def _llama3_share(rope: RopeConfig, plain: np.ndarray) -> np.ndarray:
    """Pairs that turn often within the original context are kept, those that turn rarely are stretched."""
    turns = rope.original_max_position_embeddings * plain / (2 * math.pi)
    return np.clip((turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor), 0.0, 1.0)


def _yarn_share(rope: RopeConfig, head_dim: int) -> np.ndarray:
    """As for llama3, but the ramp runs over the pair's index, between those that make `beta_fast` and `beta_slow` turns."""

    def pair(turns: float) -> float:
        turn_length = rope.original_max_position_embeddings / (turns * 2 * math.pi)
        return head_dim * math.log(turn_length) / (2 * math.log(rope.theta))

    low, high = pair(rope.beta_fast), pair(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    ramp = (np.arange(head_dim // 2) - low) / (high - low if high != low else 1e-3)
    return 1.0 - np.clip(ramp, 0.0, 1.0)


def _ntk(rope: RopeConfig, head_dim: int, position: Float[Array, "T 1"]) -> Float[Array, "T half"]:
    """How much slower each pair turns because the base has grown: theta * g**(C / (C - 2)) over theta, per pair."""
    length = jnp.maximum(position + 1.0, rope.original_max_position_embeddings)
    growth = rope.factor * length / rope.original_max_position_embeddings - (rope.factor - 1.0)
    exponent = np.arange(0, head_dim, 2, dtype=np.float64) / max(head_dim - 2, 1)
    return jnp.exp(-jnp.log(growth) * jnp.asarray(exponent, jnp.float32)[None])
