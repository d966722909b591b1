"""What depends on the row table alone, worked out once in a step and shared by all its layers.

Rows that come first and bring one token each (increments) are *singles*: they run as one batch over K/V blocks. All other
rows are cut into query *tiles*. In uniform mode every token is a single, so that its arithmetic cannot depend on its row.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

Scalar = Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Tuning:
    """Block sizes in tokens. They change speed only, except that uniform mode's sums depend on `single_block`."""

    single_rows: int = 16
    single_block: int = 128
    tile: int = 64
    tile_block: int = 128


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "order", "place", "single_len", "single_low", "single_first", "single_pages", "single_blocks",
        "tile_start", "tile_row", "tile_position", "num_tiles", "kv_lens", "row_pages",
        "num_tokens", "num_singles", "write_page", "write_slot", "token_valid",
    ],
    meta_fields=["page_size", "sliding_window", "uniform", "tuning"],
)  # fmt: skip
@dataclasses.dataclass(frozen=True)
class Metadata:
    """Work lists of one iteration. Make it with `prepare`; hand it to `ragged_paged_attention` and `write_kv`.

    All arrays are int32 (bool where said). `N` singles are padded to whole groups, `Q` tiles to the worst case.
    """

    order: Int[Array, " N"]  # token of each single, longest first
    place: Int[Array, " T"]  # where a token stands in `order`
    single_len: Int[Array, " N"]  # end of the K/V a single sees (0: padding)
    single_low: Int[Array, " N"]  # first K/V position it sees
    single_first: Int[Array, " N"]  # first position of its first block
    single_pages: Int[Array, "N PS"]  # its pages from that block on
    single_blocks: Int[Array, " groups"]  # blocks each group has to visit
    tile_start: Int[Array, " Q"]  # first token of a tile
    tile_row: Int[Array, " Q"]
    tile_position: Int[Array, " Q"]  # position of its first token
    num_tiles: Scalar
    kv_lens: Int[Array, " R"]  # 0 in padding rows
    row_pages: Int[Array, "R PR"]  # padded to whole blocks, 0 where a row has no page
    num_tokens: Scalar
    num_singles: Scalar
    write_page: Int[Array, " T"]  # page each token is written to; negative in padding
    write_slot: Int[Array, " T"]
    token_valid: Bool[Array, " T"]
    page_size: int
    sliding_window: int | None
    uniform: bool
    tuning: Tuning

    def offset_pages(self, pages: int | Scalar) -> "Metadata":
        """The same rows with every page number moved by `pages` (a layer's place in an array of all layers)."""
        return dataclasses.replace(
            self,
            single_pages=self.single_pages + pages,
            row_pages=self.row_pages + pages,
            write_page=jnp.where(self.token_valid, self.write_page + pages, -1),
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
    sliding_window: int | None,
    uniform: bool,
    tuning: Tuning,
) -> Metadata:
    """Work lists of a row table; `num_tokens` is T, the padded length of the flat batch."""
    rows, t = kv_lens.shape[0], num_tokens
    active = jnp.arange(rows) < num_rows[0]
    total = jnp.where(num_rows[0] > 0, cu_q_lens[num_rows[0]], 0)
    kv_lens = jnp.where(active, kv_lens, 0)
    q_lens = jnp.where(active, cu_q_lens[1:] - cu_q_lens[:-1], 0)
    used = jnp.arange(page_table.shape[1])[None] * page_size < kv_lens[:, None]
    page_table = jnp.where(used, page_table, 0)

    token = jnp.arange(t)
    valid = token < total
    ends = jnp.where(active, cu_q_lens[1:], jnp.iinfo(jnp.int32).max)
    row = jnp.minimum((token[:, None] >= ends[None]).sum(1), rows - 1).astype(jnp.int32)
    position = jnp.where(valid, kv_lens[row] - cu_q_lens[row + 1] + token, 0)
    write_page = jnp.where(valid, page_table[row, position // page_size], -1)

    # a row counts among the singles only while all rows before it do: then its token's number is its own
    leading = jnp.cumprod((q_lens == 1) & active).astype(jnp.int32)
    num_singles = total if uniform else leading.sum()
    singles = _singles(row, position, token < num_singles, page_table, page_size, sliding_window, uniform, tuning)
    return Metadata(
        **singles,
        **_tiles(q_lens, kv_lens, cu_q_lens, jnp.zeros_like(q_lens) if uniform else q_lens * (1 - leading), t, tuning),
        kv_lens=kv_lens,
        row_pages=_pad_pages(page_table, page_size, tuning.tile_block),
        num_tokens=total,
        num_singles=num_singles,
        write_page=write_page,
        write_slot=position % page_size,
        token_valid=valid,
        page_size=page_size,
        sliding_window=sliding_window,
        uniform=uniform,
        tuning=tuning,
    )


def pages_per_block(page_size: int, block: int) -> int:
    """Whole pages that come nearest to `block` tokens from below, at least one."""
    return max(1, block // page_size)


def _pad_pages(page_table: Int[Array, "R P"], page_size: int, block: int) -> Int[Array, "R PR"]:
    per = pages_per_block(page_size, block)
    return jnp.pad(page_table, ((0, 0), (0, -page_table.shape[1] % per)))


def _singles(row, position, valid, page_table, page_size, window, uniform, tuning) -> dict[str, jax.Array]:
    """Singles, longest first: rows of like length share a group, so a group visits few blocks in vain."""
    n = row.shape[0] if uniform else min(row.shape[0], page_table.shape[0])
    row, position, valid = row[:n], position[:n], valid[:n]
    per = pages_per_block(page_size, tuning.single_block)
    block = per * page_size
    end = jnp.where(valid, position + 1, 0)
    low = jnp.zeros_like(end) if window is None else jnp.maximum(end - window, 0)
    first = low // block  # blocks stand at absolute positions, so that sums do not depend on a window's start
    blocks = ceil_div(end, block) - first
    order = jnp.argsort(-blocks, stable=True).astype(jnp.int32)
    pad = -n % min(tuning.single_rows, n)
    padded = [jnp.pad(x[order], (0, pad)) for x in (end, low, first * block, blocks)]
    limit = page_table.shape[1] if window is None else min(page_table.shape[1], ceil_div(window, page_size) + per)
    columns = (first * per)[:, None] + jnp.arange(limit + -limit % per)[None]
    pages = jnp.where(columns < page_table.shape[1], page_table[row[:, None], columns % page_table.shape[1]], 0)
    return dict(
        order=jnp.pad(order, (0, pad)),
        place=jnp.zeros(n, jnp.int32).at[order].set(jnp.arange(n, dtype=jnp.int32)),
        single_len=padded[0],
        single_low=padded[1],
        single_first=padded[2],
        single_pages=jnp.pad(pages[order], ((0, pad), (0, 0))),
        single_blocks=padded[3].reshape(-1, min(tuning.single_rows, n)).max(1),
    )


def _tiles(q_lens, kv_lens, cu_q_lens, tiled, num_tokens, tuning) -> dict[str, jax.Array]:
    """Query tiles in the order of the flat batch. `tiled` has a row's query length, 0 for rows that are singles."""
    rows = q_lens.shape[0]
    most = ceil_div(num_tokens, tuning.tile) + min(rows, num_tokens)
    ends = jnp.cumsum(ceil_div(tiled, tuning.tile))
    tile = jnp.arange(most)
    row = jnp.minimum((tile[:, None] >= ends[None]).sum(1), rows - 1).astype(jnp.int32)
    within = (tile - jnp.where(row > 0, ends[row - 1], 0)) * tuning.tile
    return dict(
        tile_start=(cu_q_lens[row] + within).astype(jnp.int32),
        tile_row=row,
        tile_position=(kv_lens[row] - q_lens[row] + within).astype(jnp.int32),
        num_tiles=ends[-1].astype(jnp.int32),
    )
