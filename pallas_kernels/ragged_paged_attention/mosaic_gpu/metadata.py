"""The work lists of the Hopper kernels, worked out of a row table once in a step and shared by all its layers.

Rows with one token (in uniform mode: all tokens) are *singles*. An *item* is one single and one K/V head; its K/V is cut
into blocks, and all blocks of all items stand in one line that is cut into even shares, one for each program of a
persistent grid. So every processor reads about as much memory, whatever the lengths are, and only the items at the ends
of a share come out in parts. In uniform mode a share ends only where an item does: an item's sums then depend on its own
length alone. All other rows are cut into *tiles* of query rows: (token, head of the group) pairs, in that order.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from pallas_kernels.ragged_paged_attention.layout import Heads
from pallas_kernels.ragged_paged_attention.metadata import ceil_div
from pallas_kernels.ragged_paged_attention.mosaic_gpu.layout import ALIGNED, BLOCK
from pallas_kernels.ragged_paged_attention.rows import Rows, clean
from pallas_kernels.ragged_paged_attention.target import Target, current_target

Scalar = Int[Array, ""]
PROCESSORS = 132  # of an H100 or H200 (SXM), for a target that does not tell
# columns of the tables that the kernels read
FIRST, COUNT, BEGIN, END = range(4)  # of a program: its first item, how many it touches, its share of the line
ROW, TOKEN, STOP, LOW, BLOCK0, BLOCKS, LINE = range(7)  # of a single; LINE is where its first item's blocks begin
TILE_ROW, TILE_QUERY, TILE_PLACE, TILE_AT, TILE_STOP, TILE_BLOCK0, TILE_BLOCK1, TILE_PLAIN0, TILE_PLAIN1 = range(
    9
)  # of a tile


@dataclasses.dataclass(frozen=True)
class Tuning:
    """Sizes of the work. They change speed, and outside of uniform mode in the last bits the order of the sums.

    single_programs: shares of the singles' work. least: blocks in a share, where there are not enough for all.
    tile_programs: of the persistent grid over tiles.
    """

    single_programs: int
    least: int
    tile_programs: int


def choose(target: Target) -> Tuning:
    """Grids that fill the card once: of the programs for singles two fit on a multiprocessor, of those for tiles one.

    Two blocks are fetched at once whatever the head width is (`singles.stages`), so a share of two waits for memory once,
    as a share of one would, and there are half as many parts to be written, read and added up one after the other.
    """
    processors = target.cores if target.platform == "gpu" and target.cores else PROCESSORS
    return Tuning(single_programs=2 * processors, least=2, tile_programs=processors)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["programs", "singles", "parts", "tiles", "num_tiles", "queries", "page_table", "single", "place",
                 "write_page", "write_slot"],
    meta_fields=["page_size", "sliding_window", "uniform", "has_tiles", "heads", "tuning"],
)  # fmt: skip
@dataclasses.dataclass(frozen=True)
class HopperMetadata:
    """Work lists of one iteration, all int32; N singles and Q tiles at most. Pages that no row has are 0."""

    programs: Int[Array, "programs 4"]
    singles: Int[Array, "N 7"]
    parts: Int[Array, "items 2"]  # of an item: where its first part is in the workspace, and how many it has
    tiles: Int[Array, "Q 9"]  # those with most blocks first
    num_tiles: Int[Array, " 1"]
    queries: Int[
        Array, " M"
    ]  # which of the T x G query rows stands where: those of a row of the table begin at multiples of 8
    page_table: Int[Array, "R P"]
    single: Int[Array, " T"]  # which single a token is; -1: none
    place: Int[Array, " T"]  # where the tiles' results have the rows of a token; -1: nowhere
    write_page: Int[Array, " T"]  # page each token is written to; -1 in padding
    write_slot: Int[Array, " T"]
    page_size: int
    sliding_window: int | None
    uniform: bool
    has_tiles: bool  # whether any row can be cut into tiles
    heads: Heads
    tuning: Tuning

    @property
    def num_tokens(self) -> int:
        """T of the calls it was prepared for."""
        return self.write_page.shape[0]

    def offset_pages(self, pages: int | Scalar) -> "HopperMetadata":
        """The same rows with every page number moved by `pages` (a layer's place in an array of all layers)."""
        moved = jnp.where(self.write_page < 0, -1, self.write_page + pages)
        return dataclasses.replace(self, page_table=self.page_table + pages, write_page=moved)


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
) -> HopperMetadata:
    """Work lists of a row table; `num_tokens` is T, the padded length of the flat batch. `dtype` changes nothing here.

    Where no row can have more tokens than one, that is known to the program, and the kernel for tiles is left out. Where it
    only happens to be so, each of its programs reads that there is nothing to do and ends: a launch of some microseconds in
    vain. A `lax.cond` around it would cost more, as XLA:GPU has the host wait for the predicate, in every layer.
    """
    tuning = tuning or choose(current_target())
    rows = clean(kv_lens, page_table, cu_q_lens, num_rows, num_tokens=num_tokens, page_size=page_size)
    per_single = chunks(heads)[1] * heads.num_kv  # items
    singles, single = _singles(rows, sliding_window, uniform, per_single)
    tiled = jnp.zeros_like(rows.q_lens) if uniform else jnp.where(rows.q_lens > 1, rows.q_lens, 0)
    queries, begin = _queries(rows, tiled, heads.group, tile_rows(heads.dim))
    tiles, num_tiles, place = _tiles(rows, tiled, begin, heads.group, tile_rows(heads.dim), sliding_window)
    return HopperMetadata(
        programs=(programs := _programs(singles, per_single, uniform, tuning)),
        singles=singles,
        parts=_parts(singles, programs, per_single),
        tiles=tiles,
        num_tiles=num_tiles,
        queries=queries,
        page_table=rows.page_table,
        single=single,
        place=place,
        write_page=rows.write_page,
        write_slot=rows.write_slot,
        page_size=page_size,
        sliding_window=sliding_window,
        uniform=uniform,
        has_tiles=not (uniform or increments or num_tokens == 1),
        heads=heads,
        tuning=tuning,
    )


def chunks(heads: Heads) -> tuple[int, int]:
    """Wgmma's N for a group's heads, and how many such chunks a group takes: the accumulator has to stay in registers."""
    count = ceil_div(heads.group, 32 if heads.dim > 128 else 64)
    size = ceil_div(heads.group, count)
    return size + -size % 8, count


def split_columns(head_dim: int) -> bool:
    """True where the two warpgroups of a tile share its rows and halve the columns: 64 x 256 sums do not fit in registers."""
    return head_dim > 128


def tile_rows(head_dim: int) -> int:
    """Query rows of a tile: 64 (wgmma's M) for each warpgroup."""
    return 64 if split_columns(head_dim) else 128


def _low(position: Int[Array, " n"], window: int | None) -> Int[Array, " n"]:
    """The first position that the token at each `position` sees."""
    return jnp.zeros_like(position) if window is None else jnp.maximum(position - window + 1, 0)


def _singles(rows: Rows, window: int | None, uniform: bool, heads: int) -> tuple[Int[Array, "N 7"], Int[Array, " T"]]:
    """The singles, real ones first, and which of them each token is. `heads`: items in a single."""
    tokens = rows.row.shape[0]
    real = rows.valid if uniform else rows.valid & (rows.q_lens[rows.row] == 1)
    n = tokens if uniform else min(tokens, rows.q_lens.shape[0])
    order = jnp.argsort(~real, stable=True).astype(jnp.int32)[:n]
    real_here, position = real[order], rows.position[order]
    low = _low(position, window)
    stop = jnp.where(real_here, position + 1, 0)
    blocks = jnp.where(real_here, ceil_div(stop, BLOCK) - low // BLOCK, 0)
    line = (jnp.cumsum(blocks) - blocks) * heads
    table = jnp.stack([rows.row[order], order, stop, low, low // BLOCK, blocks, line], axis=1).astype(jnp.int32)
    return table, jnp.where(real, jnp.cumsum(real) - 1, -1).astype(jnp.int32)


def _programs(singles: Int[Array, "N 7"], heads: int, uniform: bool, tuning: Tuning) -> Int[Array, "programs 4"]:
    """Even shares of the line of blocks. Which item a place in the line belongs to follows from where singles begin."""
    blocks, line = singles[:, BLOCKS], singles[:, LINE]
    total = blocks.sum() * heads
    share = jnp.maximum(ceil_div(total, tuning.single_programs), tuning.least)

    def item(at):  # of a place in the line
        j = jnp.searchsorted(line + blocks * heads, at, side="right", method="scan_unrolled")
        j = jnp.minimum(j, singles.shape[0] - 1).astype(jnp.int32)
        return j, (at - line[j]) // jnp.maximum(blocks[j], 1)

    cut = jnp.minimum(jnp.arange(tuning.single_programs + 1, dtype=jnp.int32) * share, total)
    if uniform:  # move a cut that an item would feel to where the next one begins
        j, head = item(cut)
        inside = cut > line[j] + head * blocks[j]
        cut = jnp.where(cut < total, line[j] + (head + inside) * blocks[j], total)
    begin, end = cut[:-1], cut[1:]
    (j0, h0), (j1, h1) = item(begin), item(end - 1)
    first = j0 * heads + h0
    count = jnp.where(begin < end, j1 * heads + h1 - first + 1, 0)
    return jnp.stack([first, count, begin, end], axis=1).astype(jnp.int32)


def _parts(singles: Int[Array, "N 7"], programs: Int[Array, "programs 4"], heads: int) -> Int[Array, "items 2"]:
    """Where the parts of each item are: number `item + program` is a program's. No two meet, and an item's are neighbours."""
    blocks = singles[:, BLOCKS, None]
    first = singles[:, LINE, None] + jnp.arange(heads, dtype=jnp.int32)[None] * blocks
    program = lambda at: jnp.searchsorted(programs[:, BEGIN], at, side="right", method="scan_unrolled") - 1
    low, high = program(first), program(first + blocks - 1)
    item = jnp.arange(first.size, dtype=jnp.int32).reshape(first.shape)
    parts = jnp.stack([item + low, jnp.where(blocks > 0, high - low + 1, 0)], axis=-1)
    return parts.reshape(-1, 2).astype(jnp.int32)


def _queries(rows: Rows, q_lens: Int[Array, " R"], group: int, size: int) -> tuple[Int[Array, " M"], Int[Array, " R"]]:
    """Query rows of the rows in tiles, and where those of each row begin: at a multiple of 8, where a TMA copy can."""
    aligned = q_lens * group + -(q_lens * group) % ALIGNED
    ends = jnp.cumsum(aligned)
    tokens, num_rows = rows.row.shape[0], q_lens.shape[0]
    length = tokens * group + ALIGNED * min(num_rows, tokens // 2) + size  # the last tile may reach past the last query
    at = jnp.arange(length + -length % ALIGNED, dtype=jnp.int32)
    row = jnp.minimum((at[:, None] >= ends[None]).sum(1), num_rows - 1)
    source = rows.starts[row] * group + at - (ends - aligned)[row]
    return jnp.clip(source, 0, tokens * group - 1).astype(jnp.int32), (ends - aligned).astype(jnp.int32)


def _tiles(
    rows: Rows, q_lens: Int[Array, " R"], begin: Int[Array, " R"], group: int, size: int, window: int | None
) -> tuple[Int[Array, "Q 9"], Int[Array, " 1"], Int[Array, " T"]]:
    """Tiles with their K/V blocks, longest first; how many are real; where the results of each token will stand."""
    num_tokens, num_rows = rows.row.shape[0], q_lens.shape[0]
    ends = jnp.cumsum(ceil_div(q_lens * group, size))
    starts = ends - ceil_div(q_lens * group, size)
    tile = jnp.arange(max(1, num_tokens * group // size + min(num_rows, num_tokens // 2)), dtype=jnp.int32)
    row = jnp.minimum((tile[:, None] >= ends[None]).sum(1), num_rows - 1).astype(jnp.int32)
    within = (tile - starts[row]) * size  # query rows of this row that stand in tiles before
    before = rows.kv_lens[row] - q_lens[row]
    first = before + within // group
    last = before + jnp.minimum((within + size - 1) // group, q_lens[row] - 1)
    block0, block1 = _low(first, window) // BLOCK, ceil_div(last + 1, BLOCK)
    plain0 = jnp.clip(ceil_div(_low(last, window), BLOCK), block0, block1)
    plain1 = jnp.clip((first + 1) // BLOCK, plain0, block1)
    table = jnp.stack([row, begin[row] + within, tile, before * group + within, last + 1, block0, block1,
                       plain0, plain1], axis=1)  # fmt: skip
    order = jnp.argsort(jnp.where(tile < ends[-1], block0 - block1, 1), stable=True)
    query = jnp.arange(num_tokens, dtype=jnp.int32) - rows.starts[rows.row]
    tiled = rows.valid & (q_lens[rows.row] > 0)
    place = jnp.where(tiled, starts[rows.row] * size + query * group, -1)
    return table[order].astype(jnp.int32), ends[-1:].astype(jnp.int32), place.astype(jnp.int32)
