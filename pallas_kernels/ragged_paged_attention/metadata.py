"""What depends on the row table alone, worked out once in a step and shared by all its layers.

Rows that come first and bring one token each (increments) are *singles*: they run as one batch over K/V blocks. All other
rows are cut into query *tiles*. In uniform mode every token is a single, so that its arithmetic cannot depend on its row.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from pallas_kernels.ragged_paged_attention.layout import Heads
from pallas_kernels.ragged_paged_attention.rows import Rows, clean

Scalar = Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Tuning:
    """Sizes in tokens, chosen by measurement. They change speed, and in the last bits the order of the sums.

    single_rows: singles in a group. single_work: K/V tokens that a group visits in one trip of its loop, all its rows
    together. tile: queries in a tile. tile_block: K/V tokens that a tile visits in one trip.
    """

    single_rows: int = 16
    single_work: int = 1024
    tile: int = 64
    tile_block: int = 128


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "order", "place", "single_end", "single_low", "single_first", "single_pages", "single_blocks",
        "tile_start", "tile_row", "tile_position", "num_tiles", "kv_lens", "row_pages", "write_page", "write_slot",
    ],
    meta_fields=[
        "page_size", "sliding_window", "uniform", "single_group", "single_block", "tile_size", "tile_block",
    ],
)  # fmt: skip
@dataclasses.dataclass(frozen=True)
class Metadata:
    """Work lists of one iteration. Make it with `prepare`; hand it to `ragged_paged_attention` and `write_kv`.

    All arrays are int32. There are N singles at most (padded to whole groups) and Q tiles at most; pages that no row has
    are 0, so that every page number can be read.
    """

    order: Int[Array, " N"]  # token of each single, those with most blocks first
    place: Int[Array, " N"]  # where a token stands in `order`
    single_end: Int[Array, " N"]  # end of the K/V positions a single sees (0: padding)
    single_low: Int[Array, " N"]  # first K/V position it sees
    single_first: Int[Array, " N"]  # first position of its first block
    single_pages: Int[Array, "N PS"]  # its pages from that block on
    single_blocks: Int[Array, " groups"]  # blocks that each group has to visit
    tile_start: Int[Array, " Q"]  # first token of a tile
    tile_row: Int[Array, " Q"]
    tile_position: Int[Array, " Q"]  # position of its first token
    num_tiles: Scalar
    kv_lens: Int[Array, " R"]  # 0 in padding rows
    row_pages: Int[Array, "R PR"]  # padded to whole blocks
    write_page: Int[Array, " T"]  # page each token is written to; -1 in padding
    write_slot: Int[Array, " T"]
    page_size: int
    sliding_window: int | None
    uniform: bool
    single_group: int  # singles in a group
    single_block: int  # pages in a block of singles
    tile_size: int
    tile_block: int  # pages in a block of tiles

    @property
    def num_tokens(self) -> int:
        """T of the calls it was prepared for."""
        return self.write_page.shape[0]

    def offset_pages(self, pages: int | Scalar) -> "Metadata":
        """The same rows with every page number moved by `pages` (a layer's place in an array of all layers)."""
        return dataclasses.replace(
            self,
            single_pages=self.single_pages + pages,
            row_pages=self.row_pages + pages,
            write_page=jnp.where(self.write_page < 0, -1, self.write_page + pages),
        )


def ceil_div(a, b):
    """The quotient rounded up."""
    return -(-a // b)


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
) -> Metadata:
    """Work lists of a row table; `num_tokens` is T, the padded length of the flat batch.

    `heads`, `dtype` and `increments` change nothing here: a loop over no tiles costs nothing.
    """
    tuning = tuning or Tuning()
    rows = clean(kv_lens, page_table, cu_q_lens, num_rows, num_tokens=num_tokens, page_size=page_size)
    # a row counts among the singles only while all rows before it do: then its token's number is its own
    leading = jnp.cumprod((rows.q_lens == 1) & rows.active).astype(jnp.int32)
    num_singles = rows.total if uniform else leading.sum()
    tiled = jnp.zeros_like(rows.q_lens) if uniform else rows.q_lens * (1 - leading)
    per_tile_block = max(1, tuning.tile_block // page_size)
    return Metadata(
        **_singles(rows, num_singles, page_size, sliding_window, uniform, tuning),
        **_tiles(rows, tiled, min(tuning.tile, num_tokens), num_tokens),
        kv_lens=rows.kv_lens,
        row_pages=jnp.pad(rows.page_table, ((0, 0), (0, -page_table.shape[1] % per_tile_block))),
        write_page=rows.write_page,
        write_slot=rows.write_slot,
        page_size=page_size,
        sliding_window=sliding_window,
        uniform=uniform,
        tile_block=per_tile_block,
    )


def _singles(rows: Rows, num_singles, page_size, window, uniform, tuning) -> dict:
    """Singles, those with most blocks first: rows of like length share a group, so a group visits few blocks in vain."""
    page_table = rows.page_table
    n = rows.row.shape[0] if uniform else min(rows.row.shape[0], page_table.shape[0])
    size = min(tuning.single_rows, n)
    per = max(1, tuning.single_work // size // page_size)
    row, position = rows.row[:n], rows.position[:n]
    end = jnp.where(jnp.arange(n) < num_singles, position + 1, 0)
    low = jnp.zeros_like(end) if window is None else jnp.maximum(end - window, 0)
    first = low // (per * page_size)  # blocks stand at absolute positions: sums do not depend on a window's start
    blocks = ceil_div(end, per * page_size) - first
    order = jnp.arange(n, dtype=jnp.int32) if n == size else jnp.argsort(-blocks, stable=True).astype(jnp.int32)
    width = page_table.shape[1] if window is None else min(page_table.shape[1], ceil_div(window, page_size) + per)
    column = (first * per)[:, None] + jnp.arange(width + -width % per)[None]
    pages = jnp.take_along_axis(page_table[row], jnp.minimum(column, page_table.shape[1] - 1), axis=1)
    padded = lambda x: jnp.pad(x[order], ((0, -n % size),) + ((0, 0),) * (x.ndim - 1))
    return dict(
        order=jnp.pad(order, (0, -n % size)),
        place=jnp.zeros(n, jnp.int32).at[order].set(jnp.arange(n, dtype=jnp.int32)),
        single_end=padded(end),
        single_low=padded(low),
        single_first=padded(first * per * page_size),
        single_pages=padded(pages),
        single_blocks=padded(blocks).reshape(-1, size).max(1),
        single_group=size,
        single_block=per,
    )


def _tiles(rows: Rows, tiled, size, num_tokens) -> dict:
    """Query tiles in the order of the flat batch. `tiled` has a row's query length, 0 for rows that are singles."""
    num_rows = tiled.shape[0]
    ends = jnp.cumsum(ceil_div(tiled, size))
    tile = jnp.arange(ceil_div(num_tokens, size) + min(num_rows, num_tokens))
    row = jnp.minimum((tile[:, None] >= ends[None]).sum(1), num_rows - 1).astype(jnp.int32)
    within = (tile - jnp.where(row > 0, ends[row - 1], 0)) * size
    return dict(
        tile_start=(rows.starts[row] + within).astype(jnp.int32),
        tile_row=row,
        tile_position=(rows.kv_lens[row] - rows.q_lens[row] + within).astype(jnp.int32),
        num_tiles=ends[-1].astype(jnp.int32),
        tile_size=size,
    )
