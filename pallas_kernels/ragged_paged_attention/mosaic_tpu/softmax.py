"""The arithmetic: a running softmax over K/V blocks, for a few queries or for a tile of them, one body for both."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.ragged_paged_attention.mosaic_tpu.pages import LANES

# Finite, and the floor of the running maximum well above the masked scores: what is masked weighs exp(-huge) = 0 without
# being selected once more, and a query that sees nothing keeps a total of 0 instead of NaN.
MASKED = -2.0e38
FLOOR = -1.0e38
HEADS_AT_ONCE = 8


class Queries(NamedTuple):
    """Queries of an item: `[K, M, CP]`, or `[K, G, tile, CP]` with `tile` given; `item` has the item's numbers."""

    ref: Any
    item: dict[str, jax.Array]
    tile: int | None


class View(NamedTuple):
    """The block that has arrived in a buffer, and its first K/V position."""

    buffers: Any
    slot: jax.Array
    start: jax.Array


class Softmax:
    """Running maximum and total `[K, M, 128]` (lanes alike) and weighted sum `[K, M, CP]` of M queries for each K/V head."""

    def __init__(self, sizes, tiled: bool, top, total, acc):
        self.sizes, self.top, self.total, self.acc = sizes, top, total, acc
        self.step = sizes.tuning.tile_block if tiled else sizes.tuning.single_block
        # one query's rows fill a register or two: several heads share the softmax's instructions
        self.together = 1 if tiled else max(d for d in range(1, HEADS_AT_ONCE + 1) if sizes.heads % d == 0)

    def reset(self) -> None:
        """Nothing seen yet."""
        self.top[...] = jnp.full_like(self.top, FLOOR)
        self.total[...] = jnp.zeros_like(self.total)
        self.acc[...] = jnp.zeros_like(self.acc)

    def result(self, out) -> None:
        """Weighted means to `out`; zeros for queries that saw nothing."""

        def head(h, _):
            scale = 1 / jnp.maximum(self.total[h][:, :1], 1e-30)
            out[h] = (self.acc[h] * scale).astype(out.dtype).reshape(out.shape[1:])
            return 0

        lax.fori_loop(0, self.sizes.heads, head, 0)

    def fold(self, queries: Queries, view: View) -> None:
        """One fetched block, in steps of `step` tokens."""
        fetch, step = self.sizes.tuning.fetch, self.step
        low, end = queries.item["low"], queries.item["end"]
        first = jnp.maximum(low - view.start, 0) // step
        last = pl.cdiv(jnp.minimum(end - view.start, fetch), step)

        def part(n, _):
            start = view.start + n * step
            seen = self._seen(queries, start)
            stored = self._stored(low, end, start)

            def heads(chunk, _):
                self._heads(queries, view, n * step, chunk * self.together, seen, stored)
                return 0

            lax.fori_loop(0, self.sizes.heads // self.together, heads, 0)
            return 0

        lax.fori_loop(first, last, part, 0)

    def _seen(self, queries: Queries, start) -> jax.Array:
        """[M or 1, step]: which K/V positions from `start` on each query sees."""
        item, window = queries.item, self.sizes.sliding_window
        if queries.tile is None:
            key = start + lax.broadcasted_iota(jnp.int32, (1, self.step), 1)
            return (key >= item["low"]) & (key < item["end"])
        shape = (self.acc.shape[1], self.step)
        key = start + lax.broadcasted_iota(jnp.int32, shape, 1)
        token = lax.rem(lax.broadcasted_iota(jnp.int32, shape, 0), queries.tile)
        position = item["place"] * queries.tile + item["shift"] + token
        seen = (key <= position) & (position >= item["begin"]) & (position < item["end"])
        return seen if window is None else seen & (key > position - window)

    def _stored(self, low, end, start) -> jax.Array:
        """[step, 128]: where the buffer holds tokens of the row; behind its end there may be anything, NaN included."""
        key = start + lax.broadcasted_iota(jnp.int32, (self.step, LANES), 0)
        return (key < end) & (key >= low) if self.sizes.sliding_window is not None else key < end

    def _heads(self, queries: Queries, view: View, offset, first, seen, stored) -> None:
        count, pieces, m = self.together, self.sizes.pieces, self.acc.shape[1]
        scores = []
        for h in range(count):
            q = queries.ref[first + h].reshape(m, pieces * LANES)
            parts = [
                _dot(q[:, j * LANES : (j + 1) * LANES], self._load(view, offset, first + h, j, "k", None), 1)
                for j in range(pieces)
            ]
            scores.append(sum(parts[1:], parts[0]))
        s = _rows(scores)
        if self.sizes.soft_cap is not None:
            s = self.sizes.soft_cap * jnp.tanh(s / self.sizes.soft_cap)
        s = jnp.where(seen, s, MASKED)
        mine = pl.ds(first, count)
        top = self.top[mine].reshape(count * m, LANES)
        new_top = jnp.maximum(top, jnp.max(s, axis=1, keepdims=True))
        weight, keep = jnp.exp(s - new_top[:, :1]), jnp.exp(top - new_top)
        total = self.total[mine].reshape(count * m, LANES) * keep + jnp.sum(weight, axis=1, keepdims=True)
        self.top[mine] = new_top.reshape(count, m, LANES)
        self.total[mine] = total.reshape(count, m, LANES)
        for j in range(pieces):
            lanes = slice(j * LANES, (j + 1) * LANES)
            values = [self._load(view, offset, first + h, j, "v", stored) for h in range(count)]
            new = _rows([_dot(weight[h * m : (h + 1) * m].astype(v.dtype), v, 0) for h, v in enumerate(values)])
            acc = self.acc[mine, :, lanes].reshape(count * m, LANES) * keep + new
            self.acc[mine, :, lanes] = acc.reshape(count, m, LANES)

    def _load(self, view: View, offset, head, piece, half: str, stored) -> jax.Array:
        """[step, 128] of one head's K or V from the buffer, zeros where nothing is `stored`."""
        sizes, buffers = self.sizes, view.buffers
        words_per_token = sizes.heads * sizes.pieces
        first = ((view.slot * sizes.tuning.fetch + offset) * sizes.heads + head) * sizes.pieces + piece
        if jnp.dtype(buffers.dtype).itemsize == 4:
            flat = buffers.reshape(math.prod(buffers.shape[:-1]), LANES)
            x = flat[pl.ds(2 * first + (half == "v"), self.step, stride=2 * words_per_token)]
            return x if stored is None else jnp.where(stored, x, 0.0)
        flat = buffers.bitcast(jnp.uint32).reshape(math.prod(buffers.shape[:-2]), LANES)
        words = flat[pl.ds(first, self.step, stride=words_per_token)]
        if stored is not None:
            words = jnp.where(stored, words, jnp.uint32(0))
        return _half(words, half, sizes.dtype)


def _half(words: jax.Array, half: str, dtype) -> jax.Array:
    """The K or V half of 32-bit words, in the type that products take."""
    if dtype == jnp.bfloat16:
        bits = words << 16 if half == "k" else words & jnp.uint32(0xFFFF0000)
        return pltpu.bitcast(bits, jnp.float32).astype(jnp.bfloat16)
    # float16: no such unit here. Its exponent and fraction moved into float32's place are the number over 2**112.
    bits = words & jnp.uint32(0xFFFF) if half == "k" else words >> 16
    size = pltpu.bitcast((bits & jnp.uint32(0x7FFF)) << 13, jnp.float32) * jnp.float32(2.0**112)
    return jnp.where((bits & jnp.uint32(0x8000)) != 0, -size, size)


def _dot(a: jax.Array, b: jax.Array, axis: int) -> jax.Array:
    """`a` times `b`, contracted over b's `axis`, accumulated in float32; float32 operands at full precision."""
    precision = lax.Precision.HIGHEST if b.dtype == jnp.float32 else None
    return lax.dot_general(a, b, (((1,), (axis,)), ((), ())), precision=precision, preferred_element_type=jnp.float32)


def _rows(parts: list[jax.Array]) -> jax.Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=0)
