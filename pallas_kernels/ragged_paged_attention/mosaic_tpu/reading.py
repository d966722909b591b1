"""How K and V leave a buffer: one head's 128 channels of a stretch of tokens, by strided reads of 32-bit words."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.ragged_paged_attention.mosaic_tpu.pages import LANES


class View(NamedTuple):
    """The block that has arrived in a slot of the buffers `[2, fetch, stride, J, 2, 128]`, and its first K/V position.

    `dtype` is that of the pages, whatever type carries them. `simulated` reads halves as they are, because JAX's simulator
    of a TPU's memories knows no references that were reshaped.
    """

    buffers: Any
    slot: jax.Array
    start: jax.Array
    dtype: jnp.dtype
    simulated: bool

    def read(self, offset, step: int, head, piece: int, stored) -> tuple[jax.Array, jax.Array]:
        """K and V `[step, 128]` of the tokens from `offset` on; V is zeros where nothing is `stored` (None: all is)."""
        keep = lambda x: x if stored is None else jnp.where(stored, x, jnp.zeros((), x.dtype))
        if self.simulated:
            both = self.buffers[self.slot, pl.ds(offset, step), head, piece]
            return both[:, 0], keep(both[:, 1])
        _, fetch, stride, pieces, _, _ = self.buffers.shape
        first = ((self.slot * fetch + offset) * stride + head) * pieces + piece
        if jnp.dtype(self.buffers.dtype).itemsize == 4:
            flat = self.buffers.reshape(math.prod(self.buffers.shape[:-1]), LANES)
            at = lambda half: flat[pl.ds(2 * first + half, step, stride=2 * stride * pieces)]
            return at(0), keep(at(1))
        flat = self.buffers.bitcast(jnp.uint32).reshape(math.prod(self.buffers.shape[:-2]), LANES)
        words = flat[pl.ds(first, step, stride=stride * pieces)]
        low, high = words << 16, keep(words) & jnp.uint32(0xFFFF0000)
        widen = _widened_bfloat16 if self.dtype == jnp.bfloat16 else _widened_float16
        return widen(low), widen(high)


def _widened_bfloat16(high: jax.Array) -> jax.Array:
    """bfloat16 from the upper halves of words (by way of float32, as the vector unit wants it)."""
    return pltpu.bitcast(high, jnp.float32).astype(jnp.bfloat16)


def _widened_float16(high: jax.Array) -> jax.Array:
    """float32 from float16 in the upper halves of words; there is no unit for it here.

    Exponent and fraction, moved to where float32 has them, are the number over 2**112.
    """
    size = pltpu.bitcast((high & jnp.uint32(0x7FFFFFFF)) >> 3, jnp.float32) * jnp.float32(2.0**112)
    return jnp.where((high & jnp.uint32(0x80000000)) != 0, -size, size)
