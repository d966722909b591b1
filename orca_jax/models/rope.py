"""Rotary frequencies: which angle a position turns each pair of elements by, under every scaling that checkpoints use."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from orca_jax.models.config import RopeConfig
from orca_jax.models.layers import Rotation


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> Float[np.ndarray, " half"]:
    """Radians per position for each pair of elements."""
    return 1.0 / rope.theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)


def rotation(rope: RopeConfig, head_dim: int, positions: Int[Array, " T"]) -> Rotation:
    """Cosines and sines `f32[T, C / 2]` for each token's position."""
    turns = jnp.asarray(inverse_frequencies(rope, head_dim), jnp.float32)
    angles = positions[:, None].astype(jnp.float32) * turns[None, :]
    return jnp.cos(angles), jnp.sin(angles)
