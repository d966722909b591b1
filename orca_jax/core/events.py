"""What the engine tells whoever listens. Only the engine emits; metrics, pictures and recorders subscribe."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from orca_jax.core.sequence import Phase


class RowRecord(NamedTuple):
    """One row of an iteration that was launched. A tuple, because the loop makes one for every row that it runs."""

    request_id: str
    index: int  # type: ignore[assignment]  # hides a method of tuples that means nothing here
    phase: Phase
    start: int
    count: int  # type: ignore[assignment]  # as above


@dataclass(frozen=True, slots=True)
class IterationLaunched:
    """An iteration went to the executor. `waiting` sequences were in the pool and not in it or any other in flight."""

    iteration: int
    time: float
    rows: tuple[RowRecord, ...]
    waiting: tuple[tuple[str, int], ...]
    pages_reserved: int
    pages_used: int
    num_pages: int


@dataclass(frozen=True, slots=True)
class IterationDone:
    """An iteration came back with `num_sampled` new tokens, of which `num_kept` were still wanted.

    `waited` are the seconds for which the host was blocked until it came. `shape_tokens` and `shape_rows` are the
    compiled shape that it ran in, 0 where the executor has none; `num_compiled` programs had to be compiled for it.
    """

    iteration: int
    time: float
    num_sampled: int
    num_kept: int
    waited: float = 0.0
    shape_tokens: int = 0
    shape_rows: int = 0
    num_compiled: int = 0
    pages_reserved: int = 0


@dataclass(frozen=True, slots=True)
class RequestArrived:
    request_id: str
    time: float
    prompt_len: int
    max_tokens: int
    n: int


@dataclass(frozen=True, slots=True)
class SequenceFinished:
    """Exactly one for each sequence, whatever ended it."""

    request_id: str
    index: int
    time: float
    reason: str
    num_output_tokens: int
    pages_reserved: int = 0  # by those that go on


Event = IterationLaunched | IterationDone | RequestArrived | SequenceFinished
Observer = Callable[[Event], None]
