"""The iteration timeline: who was in which batch, in which phase. Here iteration-level scheduling can be seen."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from orca_jax.core.events import Event, IterationDone, IterationLaunched, RequestArrived, SequenceFinished
from orca_jax.core.sequence import Phase

# In order of what must not get lost when several iterations share a column: the rarer the louder.
CODES = {Phase.WAITING: 1, Phase.INCREMENT: 2, Phase.CHUNK: 3, Phase.INITIATION: 4}
ABSENT = 0

Key = tuple[str, int]


@dataclass(slots=True)
class _Iteration:
    launched: float
    done: float
    cells: dict[Key, int]
    num_rows: int
    num_tokens: int
    kept: int = 0


@dataclass(frozen=True, slots=True)
class Lane:
    """One sequence of the timeline, in order of arrival."""

    key: Key
    label: str
    prompt_len: int
    num_output: int
    finish_reason: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """A run, ready to be drawn. I iterations, N lanes.

    `cells u8[N, I]` hold the `CODES` of each sequence in each iteration, 0 where it was not there. `rows i64[I]`,
    `tokens i64[I]` (processed) and `kept i64[I]` (new tokens that were wanted) count per iteration; `seconds f64[I]` is
    how long the engine waited for it beyond the one before. `elapsed` is the whole run in seconds.
    """

    lanes: tuple[Lane, ...]
    cells: np.ndarray
    rows: np.ndarray
    tokens: np.ndarray
    kept: np.ndarray
    seconds: np.ndarray
    elapsed: float
    max_rows: int

    @property
    def num_iterations(self) -> int:
        return len(self.rows)

    @property
    def mean_rows(self) -> float:
        return float(self.rows.mean()) if len(self.rows) else 0.0

    @property
    def occupancy(self) -> float:
        """Mean share of `max_rows` that was filled, 0 to 1."""
        return self.mean_rows / self.max_rows if self.max_rows else 0.0

    @property
    def tokens_per_second(self) -> float:
        """New tokens per second over the whole run."""
        return float(self.kept.sum() / self.elapsed) if self.elapsed > 0 else 0.0


@dataclass(slots=True)
class _Arrived:
    prompt_len: int
    n: int
    finished: dict[int, tuple[str, int]] = field(default_factory=dict)


class TimelineRecorder:
    """An observer of the engine's events that remembers the last `max_iterations` iterations."""

    def __init__(self, max_iterations: int = 100_000):
        self._iterations: deque[_Iteration] = deque(maxlen=max_iterations)
        self._by_number: dict[int, _Iteration] = {}
        self._arrived: dict[str, _Arrived] = {}
        self._labels: dict[str, str] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case IterationLaunched():
                self._launched(event)
            case IterationDone():
                iteration = self._by_number.pop(event.iteration, None)
                if iteration is not None:  # None: it was launched before this observer listened
                    iteration.done, iteration.kept = event.time, event.num_kept
            case RequestArrived():
                self._arrived[event.request_id] = _Arrived(event.prompt_len, event.n)
            case SequenceFinished():
                if event.request_id in self._arrived:
                    finished = self._arrived[event.request_id].finished
                    finished[event.index] = (event.reason, event.num_output_tokens)

    def name(self, request_id: str, label: str) -> None:
        """Show `label` (the prompt, say) for a request instead of its id."""
        self._labels[request_id] = label

    def timeline(self, max_rows: int | None = None) -> Timeline:
        """What was seen so far. `max_rows` is the most rows an iteration may have; the most that any had where None."""
        lanes = self._lanes()
        index = {lane.key: number for number, lane in enumerate(lanes)}
        cells = np.zeros((len(lanes), len(self._iterations)), np.uint8)
        for column, iteration in enumerate(self._iterations):
            for key, code in iteration.cells.items():
                if key in index:
                    cells[index[key], column] = code
        rows = np.array([iteration.num_rows for iteration in self._iterations], np.int64)
        return Timeline(
            lanes=lanes,
            cells=cells,
            rows=rows,
            tokens=np.array([iteration.num_tokens for iteration in self._iterations], np.int64),
            kept=np.array([iteration.kept for iteration in self._iterations], np.int64),
            seconds=self._seconds(),
            elapsed=self._iterations[-1].done - self._iterations[0].launched if self._iterations else 0.0,
            max_rows=max_rows or int(rows.max(initial=0)),
        )

    def _launched(self, event: IterationLaunched) -> None:
        cells = dict.fromkeys(event.waiting, CODES[Phase.WAITING])
        cells.update({(row.request_id, row.index): CODES[row.phase] for row in event.rows})
        num_tokens = sum(row.count for row in event.rows)
        iteration = _Iteration(event.time, event.time, cells, len(event.rows), num_tokens)
        self._iterations.append(iteration)
        self._by_number[event.iteration] = iteration

    def _lanes(self) -> tuple[Lane, ...]:
        lanes = []
        for request_id, arrived in self._arrived.items():
            label = self._labels.get(request_id, request_id)
            for index in range(arrived.n):
                reason, num_output = arrived.finished.get(index, (None, 0))
                shown = label if arrived.n == 1 else f"[{index}] {label}"
                lanes.append(Lane((request_id, index), shown, arrived.prompt_len, num_output, reason))
        return tuple(lanes)

    def _seconds(self) -> np.ndarray:
        seconds = np.zeros(len(self._iterations))
        before = float("-inf")
        for number, iteration in enumerate(self._iterations):
            # launched ahead of its predecessor's end, it only counts from that end; after a pause, from its launch
            seconds[number] = max(0.0, iteration.done - max(before, iteration.launched))
            before = iteration.done
        return seconds
