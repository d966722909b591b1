"""The work lists of the Hopper kernels, worked out of a row table once in a step and shared by all its layers.

Rows with one token (in uniform mode: all tokens) are *singles*. An *item* is one single and one K/V head; its K/V is cut
into blocks, and all blocks of all items stand in one line that is cut into even shares, one for each program of a
persistent grid. So every processor reads about as much memory, whatever the lengths are, and only the items at the ends
of a share come out in parts. In uniform mode a share ends only where an item does: an item's sums then depend on its own
length alone. All other rows are cut into *tiles* of query rows: (token, head of the group) pairs, in that order.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from pallas_kernels.ragged_paged_attention.layout import Heads
from pallas_kernels.ragged_paged_attention.metadata import ceil_div
from pallas_kernels.ragged_paged_attention.mosaic_gpu.layout import ALIGNED, BLOCK
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

    single_programs: shares of the singles' work. least: blocks that are worth a program. tile_programs: of the persistent
    grid over tiles.
    """

    single_programs: int
    least: int
    tile_programs: int


def choose(target: Target) -> Tuning:
    """Grids that fill the card once: of the programs for singles two fit on a multiprocessor, of those for tiles one."""
    processors = target.cores if target.platform == "gpu" and target.cores else PROCESSORS
    return Tuning(single_programs=2 * processors, least=4, tile_programs=processors)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["programs", "singles", "parts", "tiles", "num_tiles", "queries", "page_table", "single", "place",
                 "write_page", "write_slot"],
    meta_fields=["page_size", "sliding_window", "uniform", "heads", "tuning"],
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


@dataclasses.dataclass(frozen=True)
class _Rows:
    """The row table without its garbage, and each token's place in it."""

    q_lens: Int[Array, " R"]  # 0 in padding rows
    kv_lens: Int[Array, " R"]
    begin: Int[Array, " R"]  # first token of a row
    page_table: Int[Array, "R P"]
    total: Scalar  # real tokens
    row: Int[Array, " T"]
    position: Int[Array, " T"]  # 0 in padding
    page_size: int
    window: int | None

    def low(self, position: Int[Array, " ..."]) -> Int[Array, " ..."]:
        """The first position that the token at `position` sees."""
        return jnp.zeros_like(position) if self.window is None else jnp.maximum(position - self.window + 1, 0)


def _clean(kv_lens, page_table, cu_q_lens, num_rows, num_tokens: int, page_size: int, window: int | None) -> _Rows:
    rows = kv_lens.shape[0]
    active = jnp.arange(rows) < num_rows[0]
    total = jnp.where(num_rows[0] > 0, cu_q_lens[num_rows[0]], 0).astype(jnp.int32)
    kv_lens = jnp.where(active, kv_lens, 0).astype(jnp.int32)
    begin = jnp.where(active, cu_q_lens[:-1], total).astype(jnp.int32)
    q_lens = jnp.where(active, cu_q_lens[1:] - cu_q_lens[:-1], 0).astype(jnp.int32)
    used = jnp.arange(page_table.shape[1])[None] * page_size < kv_lens[:, None]
    token = jnp.arange(num_tokens, dtype=jnp.int32)
    row = jnp.minimum((token[:, None] >= (begin + q_lens)[None]).sum(1), rows - 1).astype(jnp.int32)
    position = jnp.where(token < total, kv_lens[row] - q_lens[row] + token - begin[row], 0)
    page_table = jnp.where(used, page_table, 0).astype(jnp.int32)
    return _Rows(q_lens, kv_lens, begin, page_table, total, row, position, page_size, window)


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
    tuning: Tuning | None,
) -> HopperMetadata:
    """Work lists of a row table; `num_tokens` is T, the padded length of the flat batch."""
    tuning = tuning or choose(current_target())
    rows = _clean(kv_lens, page_table, cu_q_lens, num_rows, num_tokens, page_size, sliding_window)
    valid = jnp.arange(num_tokens) < rows.total
    per_single = chunks(heads)[1] * heads.num_kv  # items
    singles, single = _singles(rows, uniform, per_single)
    tiled = jnp.zeros_like(rows.q_lens) if uniform else jnp.where(rows.q_lens > 1, rows.q_lens, 0)
    queries, begin = _queries(rows, tiled, heads.group, tile_rows(heads.dim))
    tiles, num_tiles, place = _tiles(rows, tiled, begin, heads.group, tile_rows(heads.dim))
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
        write_page=jnp.where(valid, rows.page_table[rows.row, rows.position // page_size], -1),
        write_slot=rows.position % page_size,
        page_size=page_size,
        sliding_window=sliding_window,
        uniform=uniform,
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


def _singles(rows: _Rows, uniform: bool, heads: int) -> tuple[Int[Array, "N 7"], Int[Array, " T"]]:
    """The singles, real ones first, and which of them each token is. `heads`: items in a single."""
    tokens = rows.row.shape[0]
    real = jnp.arange(tokens) < rows.total
    if not uniform:
        real &= rows.q_lens[rows.row] == 1
    n = tokens if uniform else min(tokens, rows.q_lens.shape[0])
    order = jnp.argsort(~real, stable=True).astype(jnp.int32)[:n]
    real_here, position = real[order], rows.position[order]
    low = rows.low(position)
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


def _queries(rows: _Rows, q_lens: Int[Array, " R"], group: int, size: int) -> tuple[Int[Array, " M"], Int[Array, " R"]]:
    """Query rows of the rows in tiles, and where those of each row begin: at a multiple of 8, where a TMA copy can."""
    aligned = q_lens * group + -(q_lens * group) % ALIGNED
    ends = jnp.cumsum(aligned)
    tokens, num_rows = rows.row.shape[0], q_lens.shape[0]
    length = tokens * group + ALIGNED * min(num_rows, tokens // 2) + size  # the last tile may reach past the last query
    at = jnp.arange(length + -length % ALIGNED, dtype=jnp.int32)
    row = jnp.minimum((at[:, None] >= ends[None]).sum(1), num_rows - 1)
    source = rows.begin[row] * group + at - (ends - aligned)[row]
    return jnp.clip(source, 0, tokens * group - 1).astype(jnp.int32), (ends - aligned).astype(jnp.int32)


def _tiles(
    rows: _Rows, q_lens: Int[Array, " R"], begin: Int[Array, " R"], group: int, size: int
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
    block0, block1 = rows.low(first) // BLOCK, ceil_div(last + 1, BLOCK)
    plain0 = jnp.clip(ceil_div(rows.low(last), BLOCK), block0, block1)
    plain1 = jnp.clip((first + 1) // BLOCK, plain0, block1)
    table = jnp.stack([row, begin[row] + within, tile, before * group + within, last + 1, block0, block1,
                       plain0, plain1], axis=1)  # fmt: skip
    order = jnp.argsort(jnp.where(tile < ends[-1], block0 - block1, 1), stable=True)
    query = jnp.arange(num_tokens, dtype=jnp.int32) - rows.begin[rows.row]
    tiled = (jnp.arange(num_tokens) < rows.total) & (q_lens[rows.row] > 0)
    place = jnp.where(tiled, starts[rows.row] * size + query * group, -1)
    return table[order].astype(jnp.int32), ends[-1:].astype(jnp.int32), place.astype(jnp.int32)
