"""Drawn row tables and their arrays: what every implementation of ragged paged attention is tested with."""

import dataclasses

import numpy as np
from hypothesis import strategies as st


@dataclasses.dataclass(frozen=True)
class Case:
    """One call. `rows` are (query tokens, K/V tokens before them); everything else is shape, or an option."""

    rows: tuple[tuple[int, int], ...]
    page_size: int
    num_tokens: int = 24
    bucket_rows: int = 6
    pages_per_row: int = 16
    num_kv_heads: int = 2
    group: int = 2
    head_dim: int = 8
    sliding_window: int | None = None
    soft_cap: float | None = None
    seed: int = 0

    def options(self) -> dict:
        """Keyword arguments of the attention call."""
        return dict(sm_scale=self.head_dim**-0.5, sliding_window=self.sliding_window, soft_cap=self.soft_cap)


@dataclasses.dataclass
class Arrays:
    """Operands in the canonical layout, with NaN wherever nothing may be read."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    pages_before: np.ndarray  # without this iteration's tokens
    pages: np.ndarray  # with them
    table: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # kv_lens, page_table, cu_q_lens, num_rows


def arrays(case: Case) -> Arrays:
    """Random operands of a case. Padding, unused pages and page tails are NaN, unused table entries are out of range."""
    rng = np.random.default_rng(case.seed)
    draw = lambda *shape: rng.standard_normal(shape, dtype=np.float32)
    used = [-(-(q + before) // case.page_size) for q, before in case.rows]
    num_pages = case.bucket_rows * case.pages_per_row + 2  # always the same: a program is compiled for it
    free = list(rng.permutation(num_pages))
    kv_lens = np.full(case.bucket_rows, 977, np.int32)
    table = np.full((case.bucket_rows, case.pages_per_row), 1_000_000, np.int32)
    cu = np.zeros(case.bucket_rows + 1, np.int32)
    pages = np.full((num_pages, case.page_size, 2 * case.num_kv_heads, case.head_dim), np.nan, np.float32)
    before_pages = pages.copy()
    q = np.full((case.num_tokens, case.num_kv_heads * case.group, case.head_dim), np.nan, np.float32)
    k = np.full((case.num_tokens, case.num_kv_heads, case.head_dim), np.nan, np.float32)
    v = k.copy()
    for r, (q_len, before) in enumerate(case.rows):
        kv_lens[r], cu[r + 1] = q_len + before, cu[r] + q_len
        table[r, : used[r]] = [free.pop() for _ in range(used[r])]
        new = slice(cu[r], cu[r + 1])
        q[new], k[new], v[new] = (draw(*x[new].shape) for x in (q, k, v))
        for p in range(q_len + before):
            place = pages[table[r, p // case.page_size], p % case.page_size]
            if p < before:
                place[:] = draw(*place.shape)
                before_pages[table[r, p // case.page_size], p % case.page_size] = place
            else:
                place[0::2], place[1::2] = k[cu[r] + p - before], v[cu[r] + p - before]
    cu[len(case.rows) + 1 :] = 12345  # padding rows may hold anything
    return Arrays(q, k, v, before_pages, pages, (kv_lens, table, cu, np.array([len(case.rows)], np.int32)))


# Everything that a program is compiled for. Few of them: compiling is what these tests spend their time on.
KINDS = (
    dict(page_size=4),
    dict(page_size=16, num_kv_heads=1, group=3, soft_cap=5.0),
    dict(page_size=1, group=1, sliding_window=5),
    dict(page_size=4, sliding_window=17),
)


@st.composite
def cases(draw, kinds=KINDS) -> Case:
    """Mixtures of singles, chunks and whole prompts, drawn to end on and beside page, block and tile boundaries."""
    kind = Case(rows=(), **draw(st.sampled_from(kinds)))
    limit = kind.pages_per_row * kind.page_size
    edge = st.sampled_from([x + d for x in (kind.page_size, 16, 32, 64, 128, limit) for d in (-1, 0, 1)])
    length = (edge | st.integers(1, limit)).map(lambda x: max(1, min(x, limit)))
    rows, room = [], kind.num_tokens
    for _ in range(draw(st.integers(0, kind.bucket_rows))):
        total = draw(length)
        q_len = min(draw(st.sampled_from([1, 1, 1, 0, 2, 7, 40, total])), total, room)
        rows.append((q_len, total - q_len))
        room -= q_len
    if draw(st.booleans()):
        rows.sort(key=lambda row: row[0] != 1)  # the order the packer keeps; the operation takes any
    return dataclasses.replace(kind, rows=tuple(rows), seed=draw(st.integers(0, 99)))
