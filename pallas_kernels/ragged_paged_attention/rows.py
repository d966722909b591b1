"""What every implementation first makes of a row table: garbage taken out, and the place of each token."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


@dataclasses.dataclass(frozen=True)
class Rows:
    """A row table that can be computed with. Padding rows have no tokens; pages that no row has are 0.

    `active` rows are real, `total` tokens are. Of each token: whether it is `valid`, its `row` and `position`, and the page
    (-1 in padding) and slot where its K and V belong.
    """

    active: Bool[Array, " R"]
    total: Int[Array, ""]
    kv_lens: Int[Array, " R"]
    q_lens: Int[Array, " R"]
    starts: Int[Array, " R"]  # first token
    page_table: Int[Array, "R P"]
    valid: Bool[Array, " T"]
    row: Int[Array, " T"]
    position: Int[Array, " T"]
    write_page: Int[Array, " T"]
    write_slot: Int[Array, " T"]


def clean(
    kv_lens: Int[Array, " R"],
    page_table: Int[Array, "R P"],
    cu_q_lens: Int[Array, " R1"],
    num_rows: Int[Array, " 1"],
    *,
    num_tokens: int,
    page_size: int,
) -> Rows:
    """The rows of a row table; `num_tokens` is T, the padded length of the flat batch."""
    rows = kv_lens.shape[0]
    active = jnp.arange(rows) < num_rows[0]
    total = jnp.where(num_rows[0] > 0, cu_q_lens[num_rows[0]], 0)
    kv_lens = jnp.where(active, kv_lens, 0)
    used = jnp.arange(page_table.shape[1])[None] * page_size < kv_lens[:, None]
    page_table = jnp.where(used, page_table, 0)

    token = jnp.arange(num_tokens)
    valid = token < total
    ends = jnp.where(active, cu_q_lens[1:], jnp.iinfo(jnp.int32).max)
    row = jnp.minimum((token[:, None] >= ends[None]).sum(1), rows - 1).astype(jnp.int32)
    position = jnp.where(valid, kv_lens[row] - cu_q_lens[row + 1] + token, 0)
    return Rows(
        active=active,
        total=total,
        kv_lens=kv_lens,
        q_lens=jnp.where(active, cu_q_lens[1:] - cu_q_lens[:-1], 0),
        starts=jnp.where(active, cu_q_lens[:-1], 0),
        page_table=page_table,
        valid=valid,
        row=row,
        position=position,
        write_page=jnp.where(valid, page_table[row, position // page_size], -1),
        write_slot=position % page_size,
    )
