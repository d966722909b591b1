"""The arithmetic: a running softmax over K/V blocks, for a few queries or for a tile of them, one body for both."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from pallas_kernels.ragged_paged_attention.mosaic_tpu.pages import LANES
from pallas_kernels.ragged_paged_attention.mosaic_tpu.reading import View
from pallas_kernels.ragged_paged_attention.mosaic_tpu.sizes import Sizes

# Finite, and the floor of the running maximum well above the masked scores: what is masked weighs 2**-huge = 0 without
# being selected once more, and a query that sees nothing keeps a total of 0 instead of NaN.
MASKED = -2.0e38
FLOOR = -1.0e38
HEADS_AT_ONCE = 8
LOG2_E = math.log2(math.e)


def exponents(products: jax.Array, sm_scale: float, soft_cap: float | None) -> jax.Array:
    """Scores as exponents of 2, of float32 products of queries and keys: scaled queries would have to be rounded again."""
    if soft_cap is None:
        return products * (sm_scale * LOG2_E)
    return jnp.tanh(products * (sm_scale / soft_cap)) * (soft_cap * LOG2_E)


class Queries(NamedTuple):
    """Queries of an item: `[K, M, CP]`, or `[K, G, tile, CP]` with `tile` given; `item` has the item's numbers."""

    ref: Any
    item: dict[str, jax.Array]
    tile: int | None


class Masks(NamedTuple):
    """What of a step counts: `seen` scores, `stored` K/V, queries of the row's `own`; None where all of it does."""

    seen: jax.Array | None
    stored: jax.Array | None
    own: jax.Array | None


NOTHING_MASKED = Masks(None, None, None)


class Softmax:
    """Running maximum and total `[K, M, 128]` (lanes alike) and weighted sum `[K, M, CP]` of M queries for each K/V head."""

    def __init__(self, sizes: Sizes, tiled: bool, top, total, acc):
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
        clear_low, clear_end = self._clear(queries)
        first = lax.div(jnp.maximum(low - view.start, 0), step)
        last = lax.div(jnp.minimum(end - view.start, fetch) + step - 1, step)

        def part(n, _):
            start = view.start + n * step
            clear = (start >= clear_low) & (start + step <= clear_end)
            masks = lambda: Masks(self._seen(queries, start), self._stored(low, end, start), self._own(queries))
            pl.when(clear)(lambda: self._all_heads(queries, view, n * step, NOTHING_MASKED))
            pl.when(jnp.logical_not(clear))(lambda: self._all_heads(queries, view, n * step, masks()))
            return 0

        lax.fori_loop(first, last, part, 0)

    def _clear(self, queries: Queries) -> tuple[jax.Array, jax.Array]:
        """The K/V positions, from and to, that every query sees, so that nothing need be masked there."""
        item, tile = queries.item, queries.tile
        if tile is None:
            return item["low"], item["end"]
        own = item["place"] * tile + item["shift"]  # position of the first query, if the row owns the whole tile
        full = (own >= item["begin"]) & (own + tile <= item["end"])
        window = self.sizes.sliding_window
        return 0 if window is None else own + tile - window, jnp.where(full, own + 1, 0)

    def _seen(self, queries: Queries, start) -> jax.Array:
        """[M or 1, step]: which K/V positions from `start` on each query sees."""
        item, window = queries.item, self.sizes.sliding_window
        if queries.tile is None:
            key = start + lax.broadcasted_iota(jnp.int32, (1, self.step), 1)
            return (key >= item["low"]) & (key < item["end"])
        position, own = self._positions(item, queries.tile, self.step)
        key = start + lax.broadcasted_iota(jnp.int32, position.shape, 1)
        seen = (key <= position) & own
        return seen if window is None else seen & (key > position - window)

    def _own(self, queries: Queries) -> jax.Array | None:
        """[M, 128]: which queries of a tile are the row's own."""
        return None if queries.tile is None else self._positions(queries.item, queries.tile, LANES)[1]

    def _positions(self, item: dict[str, jax.Array], tile: int, width: int) -> tuple[jax.Array, jax.Array]:
        """[M, width], alike in every column: where a tile's queries stand if the row owns them, and whether it does."""
        token = lax.rem(lax.broadcasted_iota(jnp.int32, (self.acc.shape[1], width), 0), tile)
        position = item["place"] * tile + item["shift"] + token
        return position, (position >= item["begin"]) & (position < item["end"])

    def _stored(self, low, end, start) -> jax.Array:
        """[step, 128]: where the buffer holds tokens of the row; elsewhere there may be anything, NaN included."""
        key = start + lax.broadcasted_iota(jnp.int32, (self.step, LANES), 0)
        return (key < end) & (key >= low) if self.sizes.sliding_window is not None else key < end

    def _all_heads(self, queries: Queries, view: View, offset, masks: Masks) -> None:
        def some(chunk, _):
            self._heads(queries, view, offset, chunk * self.together, masks)
            return 0

        lax.fori_loop(0, self.sizes.heads // self.together, some, 0)

    def _heads(self, queries: Queries, view: View, offset, first, masks: Masks) -> None:
        """Heads from `first` on, as many as go together."""
        count, pieces, m = self.together, self.sizes.pieces, self.acc.shape[1]
        scores, values = [], []
        for h in range(count):
            q = queries.ref[first + h].reshape(m, pieces * LANES)
            both = [view.read(offset, self.step, first + h, j, masks.stored) for j in range(pieces)]
            parts = [_dot(q[:, j * LANES : (j + 1) * LANES], k, 1) for j, (k, _) in enumerate(both)]
            scores.append(sum(parts[1:], parts[0]))
            values.append([v for _, v in both])
        s = exponents(_rows(scores), self.sizes.sm_scale, self.sizes.soft_cap)
        if masks.seen is not None:
            s = jnp.where(masks.seen, s, MASKED)
        mine = pl.ds(first, count)
        top = self.top[mine].reshape(count * m, LANES)
        new_top = jnp.maximum(top, jnp.max(s, axis=1, keepdims=True))
        weight, keep = jnp.exp2(s - new_top[:, :1]), jnp.exp2(top - new_top)
        total = self.total[mine].reshape(count * m, LANES) * keep + jnp.sum(weight, axis=1, keepdims=True)
        self.top[mine] = new_top.reshape(count, m, LANES)
        self.total[mine] = total.reshape(count, m, LANES)
        weight = weight.astype(values[0][0].dtype)
        for j in range(pieces):
            lanes = slice(j * LANES, (j + 1) * LANES)
            new = _rows([_dot(weight[h * m : (h + 1) * m], values[h][j], 0) for h in range(count)])
            if masks.own is not None:  # another row's NaN stays with that row
                new = jnp.where(masks.own, new, 0.0)
            acc = self.acc[mine, :, lanes].reshape(count * m, LANES) * keep + new
            self.acc[mine, :, lanes] = acc.reshape(count, m, LANES)


def _dot(a: jax.Array, b: jax.Array, axis: int) -> jax.Array:
    """`a` times `b`, contracted over b's `axis`, accumulated in float32; float32 operands at full precision."""
    precision = lax.Precision.HIGHEST if b.dtype == jnp.float32 else None
    return lax.dot_general(a, b, (((1,), (axis,)), ((), ())), precision=precision, preferred_element_type=jnp.float32)


def _rows(parts: list[jax.Array]) -> jax.Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=0)
