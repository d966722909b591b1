"""A plan as one int32 array, and back: all that an iteration tells the device travels in a single transfer.

The host's half (`Packer`) and the device's half (`unpack`) stand side by side because they are one format:

    [ header (HEADER) | tokens (T) | rows (R x WIDTH): a seat's constant columns, START, COUNT, SAMPLES, pages (P) ]

Floats travel as their bits. A token of -1 is still on the device: the step looks it up in the token table.
"""

from enum import IntEnum, IntFlag, auto
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from orca_jax.core.plan import Sampling, Seat, StepPlan
from orca_jax.execution.buckets import Bucket

HEADER = 4
ON_DEVICE = -1


class Needs(IntFlag):
    """What a row asks of the sampler beyond the largest logit; an iteration needs what any of its rows does."""

    NOISE = auto()
    TOP_K = auto()
    TOP_P = auto()
    MIN_P = auto()
    PENALTIES = auto()
    CONSTRAINTS = auto()
    LOGPROBS = auto()


class Column(IntEnum):
    """Columns of a row, in order; the pages follow."""

    SLOT = 0
    SEED_HIGH = auto()
    SEED_LOW = auto()
    INDEX = auto()
    TEMPERATURE = auto()
    TOP_K = auto()
    TOP_P = auto()
    MIN_P = auto()
    PRESENCE = auto()
    FREQUENCY = auto()
    REPETITION = auto()
    PROMPT_LEN = auto()
    MIN_TOKENS = auto()
    NEEDS = auto()
    START = auto()
    COUNT = auto()
    SAMPLES = auto()


WIDTH = len(Column)


class RowTable(NamedTuple):
    """The device's view of an iteration. Rows past `num_rows` are zero; tokens past the last row's belong to no row."""

    num_rows: Int[Array, "1"]
    needs: Int[Array, ""]
    tokens: Int[Array, " T"]
    columns: Int[Array, "R W"]
    page_table: Int[Array, "R P"]
    cu_q_lens: Int[Array, " R+1"]
    kv_lens: Int[Array, " R"]

    def ints(self, column: Column) -> Int[Array, " R"]:
        return self.columns[:, column]

    def floats(self, column: Column) -> Float[Array, " R"]:
        return lax.bitcast_convert_type(self.columns[:, column], jnp.float32)


def packed_size(bucket: Bucket, pages_per_row: int) -> int:
    return HEADER + bucket.tokens + bucket.rows * (WIDTH + pages_per_row)


def unpack(packed: Int[Array, " n"], bucket: Bucket, pages_per_row: int) -> RowTable:
    """The device's half of the format."""
    T, R = bucket.tokens, bucket.rows
    rows = packed[HEADER + T :].reshape(R, WIDTH + pages_per_row)
    counts = rows[:, Column.COUNT]
    return RowTable(
        num_rows=packed[:1],
        needs=packed[1],
        tokens=packed[HEADER : HEADER + T],
        columns=rows[:, :WIDTH],
        page_table=rows[:, WIDTH:],
        cu_q_lens=jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(counts, dtype=jnp.int32)]),
        kv_lens=rows[:, Column.START] + counts,
    )


def columns_of(packed: np.ndarray, bucket: Bucket, pages_per_row: int) -> np.ndarray:
    """The rows' columns `i32[R, WIDTH]` of a packed iteration, on the host."""
    rows = packed[HEADER + bucket.tokens :].reshape(bucket.rows, WIDTH + pages_per_row)
    return np.ascontiguousarray(rows[:, :WIDTH])


def rows_alone(columns: Int[Array, "R W"]) -> RowTable:
    """As much of an iteration as the sampler looks at: its rows, without tokens and pages."""
    needs = jnp.where(columns[:, Column.SAMPLES] == 1, columns[:, Column.NEEDS], 0)
    R = columns.shape[0]
    return RowTable(
        num_rows=jnp.full(1, R, jnp.int32),
        needs=lax.reduce(needs, np.int32(0), lax.bitwise_or, (0,)),
        tokens=jnp.zeros(0, jnp.int32),
        columns=columns,
        page_table=jnp.zeros((R, 0), jnp.int32),
        cu_q_lens=jnp.zeros(R + 1, jnp.int32),
        kv_lens=columns[:, Column.START] + columns[:, Column.COUNT],
    )


class Packer:
    """The host's half. Remembers what is constant about each slot's seat, so that an iteration costs a few array
    operations instead of a walk over every field of every row.
    """

    def __init__(self, num_slots: int, pages_per_row: int):
        self.pages_per_row = pages_per_row
        self.seats: list[Seat | None] = [None] * num_slots
        self.table = np.zeros((num_slots, WIDTH + pages_per_row), np.int32)

    def new_seats(self, plan: StepPlan) -> list[Seat]:
        """Take note of the seats that this plan brings for the first time, and return them."""
        new = [row.seat for row in plan.rows if self.seats[row.seat.slot] is not row.seat]
        for seat in new:
            self._seat(seat)
        return new

    def pack(self, plan: StepPlan, bucket: Bucket) -> tuple[np.ndarray, list[int]]:
        """The packed iteration `i32[packed_size]`, freshly allocated (the device may read it until it has run), and the
        plan's row indices in packed order: single-token rows first, as the attention kernels want them.
        """
        rows = plan.rows
        order = [i for i, row in enumerate(rows) if row.count == 1]
        if len(order) < len(rows):
            order += [i for i, row in enumerate(rows) if row.count > 1]
            rows = tuple(rows[i] for i in order)
        packed = np.zeros(packed_size(bucket, self.pages_per_row), np.int32)
        if not rows:
            return packed, order
        packed[0] = len(rows)
        tokens = [token for row in rows for token in (row.tokens or (ON_DEVICE,))]
        packed[HEADER : HEADER + len(tokens)] = tokens
        block = packed[HEADER + bucket.tokens :].reshape(bucket.rows, -1)[: len(rows)]
        block[:] = self.table[[row.seat.slot for row in rows]]
        block[:, Column.START : Column.SAMPLES + 1] = [(row.start, row.count, row.samples) for row in rows]
        packed[1] = np.bitwise_or.reduce(block[:, Column.NEEDS] * block[:, Column.SAMPLES])
        return packed, order

    def _seat(self, seat: Seat) -> None:
        self.seats[seat.slot] = seat
        line = self.table[seat.slot]
        line[:] = 0
        line[: Column.START] = seat_columns(seat)
        line[WIDTH : WIDTH + len(seat.pages)] = seat.pages


def needs_of(s: Sampling) -> Needs:
    needs = Needs(0)
    if s.temperature > 0:
        needs |= Needs.NOISE
        needs |= Needs.TOP_K if s.top_k else Needs(0)
        needs |= Needs.TOP_P if s.top_p < 1 else Needs(0)
        needs |= Needs.MIN_P if s.min_p > 0 else Needs(0)
    if s.has_penalties:
        needs |= Needs.PENALTIES
    if s.has_constraints:
        needs |= Needs.CONSTRAINTS
    if s.logprobs is not None:
        needs |= Needs.LOGPROBS
    return needs


def seat_columns(seat: Seat) -> np.ndarray:
    """A seat's constant columns, `i32[START]`."""
    s = seat.sampling
    seed = s.seed & 0xFFFFFFFFFFFFFFFF
    ints = np.array([seed >> 32, seed & 0xFFFFFFFF], np.uint32).view(np.int32)
    floats = np.array(
        [s.temperature, s.top_p, s.min_p, s.presence_penalty, s.frequency_penalty, s.repetition_penalty], np.float32
    ).view(np.int32)
    return np.array(
        [seat.slot, *ints, s.index, floats[0], s.top_k, floats[1], floats[2], *floats[3:], s.prompt_len, s.min_tokens,
         int(needs_of(s))],
        np.int32,
    )  # fmt: skip


def token_rows(table: RowTable) -> tuple[Int[Array, " T"], Int[Array, " T"], Int[Array, " T"]]:
    """For each token its row, its position, and whether it is one (padding is not; its row is 0, its position 0)."""
    t = jnp.arange(table.tokens.shape[0], dtype=jnp.int32)
    starts, ends = table.cu_q_lens[:-1], table.cu_q_lens[1:]
    inside = (t[:, None] >= starts[None, :]) & (t[:, None] < ends[None, :])
    row = jnp.argmax(inside, axis=1).astype(jnp.int32)
    real = inside.any(axis=1)
    position = table.ints(Column.START)[row] + t - starts[row]
    return row, jnp.where(real, position, 0), real
