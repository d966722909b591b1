"""What the engine tells whoever listens. Only the engine emits; metrics, pictures and recorders subscribe."""

from collections.abc import Callable
from dataclasses import dataclass

from orca_jax.core.sequence import Phase


@dataclass(frozen=True, slots=True)
class RowRecord:
    """One row of an iteration that was launched."""

    request_id: str
    index: int
    phase: Phase
    start: int
    count: int


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
    """An iteration came back with `num_sampled` new tokens, of which `num_kept` were still wanted."""

    iteration: int
    time: float
    num_sampled: int
    num_kept: int


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


Event = IterationLaunched | IterationDone | RequestArrived | SequenceFinished
Observer = Callable[[Event], None]
