"""What both Hopper kernels share: operands in shared memory, the fetching of a block, and a score's way to its weight."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.ragged_paged_attention.mosaic_gpu.layout import ALIGNED, BLOCK, LANES, piece
from pallas_kernels.ragged_paged_attention.mosaic_gpu.ops import WGMMA, Ops

NEG = -1e30  # finite, so that what a wholly masked block adds is wiped out by the next block instead of being NaN
LOG2E = math.log2(math.e)  # weights are powers of two: that is the instruction the hardware has


def operand(shape: tuple[int, ...], dtype) -> Any:
    """Shared memory that wgmma can read: swizzled tiles of 8 rows of 128 bytes."""
    tiles = plgpu.TilingTransform((ALIGNED, LANES))  # type: ignore[abstract]
    return plgpu.SMEM(shape, dtype, transforms=(tiles, plgpu.SwizzleTransform(128)))  # type: ignore[abstract]


def spread(x: jax.Array, shape: tuple[int, ...], axis: int) -> jax.Array:
    """A vector along `axis` of an array of two axes, the same everywhere along the other one."""
    return lax.broadcast_in_dim(x, shape, [axis])


def copies(page_size: int) -> int:
    """TMA copies that bring one block of K/V."""
    return BLOCK // piece(page_size)


def fetch(
    kv: Any, table: Any, at: tuple[Any, Any, Any, Any], page_size: int, heads: int, to: Any, barrier: Any
) -> None:
    """Start the copies of one block. `at`: row of the table, K/V head, block, and where the row's K/V ends.

    Past the end the last stretch is copied again (out of the cache), so that a barrier always counts the same number.
    """
    row, head, block, stop = at
    size = piece(page_size)
    sources = []
    for i in range(copies(page_size)):
        position = jnp.minimum(block * BLOCK + i * size, lax.div(stop - 1, jnp.int32(size)) * size)
        page = table[row, lax.div(position, jnp.int32(page_size))]
        sources.append((page * heads + head) * page_size + lax.rem(position, jnp.int32(page_size)))
    for i, source in enumerate(sources):
        plgpu.copy_gmem_to_smem(kv.at[pl.ds(source, size)], to.at[pl.ds(i * size, size)], barrier)


def drain(free: Any, step: Any) -> None:
    """Wait until the last blocks of `step` have been used: a barrier is not left before all that it announced was heard."""
    depth = jnp.int32(free.shape[0])
    lax.fori_loop(jnp.maximum(step - depth, 0), step, lambda i, _: plgpu.barrier_wait(free.at[lax.rem(i, depth)]), None)


def scaled(scores: jax.Array, sm_scale: float, soft_cap: float | None) -> jax.Array:
    """Scores in powers of two, capped. The tangent is spelled out: the hardware's own is good to three digits only."""
    if soft_cap is None:
        return scores * (sm_scale * LOG2E)
    grown = jnp.exp2(scores * (2 * LOG2E * sm_scale / soft_cap))
    return (soft_cap * LOG2E) - (2 * soft_cap * LOG2E) / (grown + 1.0)


def zero_tail(ops: Ops, block: Any, width: int, left: Any) -> None:
    """Zero the values of a block from token `left` on, in shared memory: their weights are 0, but 0 x NaN would be NaN."""
    for i in range(width, 2 * width, LANES):
        part = block.at[:, pl.ds(i, LANES)]
        row = ops.iota((BLOCK, LANES), 0, WGMMA)
        values = ops.cast(part[...], WGMMA)
        part[...] = jnp.where(row < left, values, jnp.zeros_like(values))
