"""The TPU kernels' work lists: one item for each row with a single token, one for each meeting of a row and a query tile.

Tiles are fixed windows of the flat batch, so they are aligned whatever the rows are; a row that shares its tile with others
is one item of that tile, and those items stand beside each other. Rows with one token never pay for a tile: they are
*singles*, gathered in an array of their own. In uniform mode every token is a single, so that its arithmetic cannot
depend on its row. Lists live in scalar memory, which is small; the page table does not: its rows are fetched one at a time.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from pallas_kernels.ragged_paged_attention.layout import Heads
from pallas_kernels.ragged_paged_attention.mosaic_tpu.generation import generation
from pallas_kernels.ragged_paged_attention.mosaic_tpu.pages import LANES
from pallas_kernels.ragged_paged_attention.mosaic_tpu.tuning import Tuning, choose
from pallas_kernels.ragged_paged_attention.rows import Rows, clean
from pallas_kernels.ragged_paged_attention.target import current_target

Scalar = Int[Array, ""]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["items", "counts", "row_pages", "single_token", "single_place", "tiled", "runs", "num_runs"],
    meta_fields=["page_size", "num_tokens", "sliding_window", "uniform", "has_tiles", "tuning"],
)
@dataclasses.dataclass(frozen=True)
class WorkList:
    """Work of one iteration. Make it with `prepare`; hand it to `ragged_paged_attention` and `write_kv`.

    There are I items at most, N of them singles, and at most U runs of tokens that go to one page each.
    """

    items: dict[str, Int[Array, " I"]]  # see `_singles` and `_tiles`; singles first, then tiles
    counts: Int[Array, " 2"]  # singles, items
    row_pages: Int[Array, "R 1 P"]  # P padded to whole tiles of memory
    single_token: Int[Array, " N"]  # token of each single
    single_place: Int[Array, " T"]  # where a token's single stands; -1 for those that are none
    tiled: Bool[Array, " T"]  # tokens that tiles bring
    runs: dict[str, Int[Array, " U"]]  # first token, page, first slot in it, number of tokens
    num_runs: Int[Array, " 1"]
    page_size: int
    num_tokens: int
    sliding_window: int | None
    uniform: bool
    has_tiles: bool  # whether any item can be a tile
    tuning: Tuning

    def offset_pages(self, pages: int | Scalar) -> "WorkList":
        """The same rows with every page number moved by `pages` (a layer's place in an array of all layers)."""
        runs = self.runs | {"page": self.runs["page"] + pages}
        return dataclasses.replace(self, row_pages=self.row_pages + pages, runs=runs)


def build(
    kv_lens: Int[Array, " R"],
    page_table: Int[Array, "R P"],
    cu_q_lens: Int[Array, " R1"],
    num_rows: Int[Array, " 1"],
    *,
    num_tokens: int,
    page_size: int,
    heads: Heads,
    sliding_window: int | None,
    uniform: bool,
    increments: bool,
    dtype: Any,
    tuning: Tuning | None,
) -> WorkList:
    """Work list of a row table; `num_tokens` is T, the padded length of the flat batch. ValueError for a `tuning` whose
    sizes do not fit into each other.
    """
    tuning = tuning or choose(
        generation(current_target()), heads, page_size, 2 if dtype is None else jnp.dtype(dtype).itemsize
    )
    tuning.check(page_size)
    tuning = dataclasses.replace(tuning, tile=min(tuning.tile, -(-num_tokens // 16) * 16))
    rows = clean(kv_lens, page_table, cu_q_lens, num_rows, num_tokens=num_tokens, page_size=page_size)
    alone = rows.valid if uniform else rows.valid & (rows.q_lens[rows.row] == 1)
    most = num_tokens if uniform else min(num_tokens, kv_lens.shape[0])
    single_token = _compact(alone, most)
    singles = _singles(rows, single_token, sliding_window)
    has_tiles = not (uniform or increments or num_tokens == 1)
    tiles, num_tiles = _tiles(rows, tuning.tile, num_tokens, sliding_window) if has_tiles else ({}, jnp.int32(0))
    num_singles = alone.sum(dtype=jnp.int32)
    runs, num_runs = _runs(rows, num_tokens, page_size)
    return WorkList(
        items={name: _joined(singles[name], tiles[name], num_singles) for name in singles} if tiles else singles,
        counts=jnp.stack([num_singles, num_singles + num_tiles]),
        row_pages=jnp.pad(rows.page_table, ((0, 0), (0, -page_table.shape[1] % LANES)))[:, None],
        single_token=single_token,
        single_place=jnp.where(alone, jnp.cumsum(alone, dtype=jnp.int32) - 1, -1),
        tiled=rows.valid & ~alone,
        runs=runs,
        num_runs=num_runs,
        page_size=page_size,
        num_tokens=num_tokens,
        sliding_window=sliding_window,
        uniform=uniform,
        has_tiles=has_tiles,
        tuning=tuning,
    )


def _compact(mask: Bool[Array, " T"], most: int) -> Int[Array, " N"]:
    """Indices of what is true, in order, padded with zeros."""
    return jnp.nonzero(mask, size=most, fill_value=0)[0].astype(jnp.int32)


def _singles(rows: Rows, token: Int[Array, " N"], window: int | None) -> dict[str, Int[Array, " N"]]:
    """Items of one query: its row, its place among the singles, the K/V positions it sees (`low` to `end`)."""
    position = rows.position[token]
    low = jnp.zeros_like(position) if window is None else jnp.maximum(position - window + 1, 0)
    place = jnp.arange(token.shape[0], dtype=jnp.int32)
    return dict(row=rows.row[token], place=place, low=low, end=position + 1, begin=position, shift=position)


def _tiles(rows: Rows, size: int, num_tokens: int, window: int | None) -> tuple[dict[str, Int[Array, " Q"]], Scalar]:
    """Items of a row's tokens in a tile, `place`: the query of token `place * size + i` stands at `place * size + i +
    shift`, and is the row's own if that is `begin` at least and less than `end`.
    """
    num_rows = rows.q_lens.shape[0]
    first = rows.starts // size
    tiles = jnp.where(rows.q_lens > 1, (rows.starts + rows.q_lens - 1) // size - first + 1, 0)
    ends = jnp.cumsum(tiles)
    item = jnp.arange(-(-num_tokens // size) + min(num_rows, num_tokens // 2))
    row = jnp.minimum((item[:, None] >= ends[None]).sum(1), num_rows - 1).astype(jnp.int32)
    place = first[row] + item - (ends - tiles)[row]
    begin = (rows.kv_lens - rows.q_lens)[row]
    shift = begin - rows.starts[row]
    end = jnp.minimum(rows.kv_lens[row], (place + 1) * size + shift)
    seen_from = jnp.maximum(begin, place * size + shift)
    low = jnp.zeros_like(begin) if window is None else jnp.maximum(seen_from - window + 1, 0)
    items = dict(row=row, place=place, low=low, end=end, begin=begin, shift=shift)
    return {name: x.astype(jnp.int32) for name, x in items.items()}, ends[-1].astype(jnp.int32)


def _joined(singles: Int[Array, " N"], tiles: Int[Array, " Q"], num_singles: Scalar) -> Int[Array, " I"]:
    """The real singles, and behind them the tiles."""
    n, q = singles.shape[0], tiles.shape[0]
    item = jnp.arange(n + q)
    tile = tiles[jnp.clip(item - num_singles, 0, q - 1)]
    return jnp.where(item < num_singles, singles[jnp.minimum(item, n - 1)], tile)


def _runs(rows: Rows, num_tokens: int, page_size: int) -> tuple[dict[str, Int[Array, " U"]], Int[Array, " 1"]]:
    """Stretches of tokens that lie in one page, each written by few copies."""
    token = jnp.arange(num_tokens)
    opens = rows.valid & ((rows.write_slot == 0) | (token == rows.starts[rows.row]))
    most = min(num_tokens, -(-num_tokens // page_size) + 2 * rows.q_lens.shape[0])
    count = opens.sum(dtype=jnp.int32)
    first = _compact(opens, most)
    following = jnp.where(jnp.arange(most) + 1 < count, jnp.roll(first, -1), rows.total)
    runs = dict(token=first, page=rows.write_page[first], slot=rows.write_slot[first], length=following - first)
    return {name: x.astype(jnp.int32) for name, x in runs.items()}, count[None]
