"""The loop of a batch: takes items, keeps the answerer busy, and writes what comes back, in order or as it comes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from orca_jax.batch.answerer import Answerer
from orca_jax.batch.names import Names
from orca_jax.batch.records import DUPLICATE
from orca_jax.batch.reorder import Reorder
from orca_jax.batch.words import BatchError, Counts, Failed, Prepared, Refused, Result
from orca_jax.core.clock import Clock, MonotonicClock
from orca_jax.core.errors import EngineError

SYNC_SECONDS = 1.0


class Sink(Protocol):
    """Where results go. Raises BatchError where they cannot."""

    def write(self, results: Sequence[Result]) -> None: ...

    def sync(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """`inflight`: most items that the answerer has at once. `window`: most that are taken and not written."""

    inflight: int = 1024
    window: int = 8192
    in_order: bool = True


Taken = Prepared | Refused | None
"""What a source yields; None stands for a line that an earlier run has answered."""


class Runner:
    """Runs a source to its end, or until `stop`. `counts` may be read at any time, from any thread.

    The source is read ahead by its own threads; this loop runs in the caller's. `names` are the custom ids that earlier
    runs have used. What is written is synced every second and at the end. `unit` is what the source calls a line.
    """

    def __init__(
        self,
        source: Iterator[Taken],
        answerer: Answerer,
        sink: Sink,
        *,
        counts: Counts,
        names: Names | None = None,
        limits: Limits | None = None,
        unit: str = "line",
        progress: Callable[[Counts], None] = lambda counts: None,
        clock: Clock | None = None,
    ):
        self.counts = counts
        self._source, self._answerer, self._sink = source, answerer, sink
        self._names = Names() if names is None else names
        self._limits = Limits() if limits is None else limits
        self._unit = unit
        self._progress = progress
        self._clock = MonotonicClock() if clock is None else clock
        self._events: SimpleQueue[tuple[int, Prepared, Any] | None] = SimpleQueue()
        self._reorder = Reorder(self._limits.in_order)
        self._num_taken = self._num_ended = self._num_running = 0
        self._exhausted = self._stopped = False
        self._synced, self._dirty = self._clock.now(), False

    def stop(self) -> None:
        """End the run soon, from any thread or a signal handler: what is in flight is given up."""
        self._stopped = True
        self._events.put(None)

    def run(self) -> bool:
        """Whether the source was answered to its end. Raises BatchError where the results cannot be written, or the
        engine has failed; what was written by then is whole, and another run goes on from it.
        """
        try:
            while not self._stopped:
                self._fill()
                if self._exhausted and not self._num_running:
                    break
                self._absorb(self._wait())
        except EngineError as error:
            raise BatchError(f"{error} (the same command goes on from here)") from error
        finally:
            if self._num_running:
                self._answerer.cancel()
            self._sink.sync()
        return self._exhausted and not self._num_running

    def _fill(self) -> None:
        """Submit items while there is room and nothing has come back that wants to be written."""
        while not (self._exhausted or self._stopped) and self._has_room() and self._events.empty():
            try:
                taken = next(self._source)
            except StopIteration:
                self._exhausted = True
                return
            if taken is not None:
                self._start(taken)

    def _has_room(self) -> bool:
        unwritten = self._num_taken - self._reorder.num_given
        return self._num_running < self._limits.inflight and unwritten < self._limits.window

    def _start(self, taken: Prepared | Refused) -> None:
        position = self._num_taken
        self._num_taken += 1
        failure = self._duplicate(taken)
        if failure is not None:
            self._write(list(self._reorder.push(position, Result(taken.number, taken.custom_id, failure))))
        elif isinstance(taken, Refused):
            self._write(list(self._reorder.push(position, Result(taken.number, taken.custom_id, taken.failure))))
        else:
            self._num_running += 1
            self._answerer.submit(taken.work, partial(self._done, position, taken))

    def _duplicate(self, taken: Prepared | Refused) -> Failed | None:
        if taken.custom_id is None:
            return None
        first = self._names.claim(taken.custom_id, taken.number)
        if first == taken.number:
            return None
        where = f"{self._unit} {taken.number}: custom_id {taken.custom_id!r} is that of {self._unit} {first} already"
        return Failed(DUPLICATE, where, "custom_id")

    def _done(self, position: int, taken: Prepared, raw: Any) -> None:
        """Called on the answerer's thread."""
        self._events.put((position, taken, raw))

    def _wait(self) -> list[tuple[int, Prepared, Any]]:
        """Everything that has come back, at least one thing unless it is time to sync or to stop."""
        left = self._synced + SYNC_SECONDS - self._clock.now()
        found = []
        try:
            event = self._events.get(timeout=max(left, 0.0)) if self._dirty else self._events.get()
            while event is not None:
                found.append(event)
                event = self._events.get_nowait()
        except Empty:
            return found
        return found

    def _absorb(self, events: list[tuple[int, Prepared, Any]]) -> None:
        self._num_running -= len(events)
        ready: list[Result] = []
        for position, taken, raw in events:
            outcome = self._answerer.answer(taken.work, raw)
            ready += self._reorder.push(position, Result(taken.number, taken.custom_id, outcome))
        self._write(ready)
        if self._dirty and self._clock.now() - self._synced >= SYNC_SECONDS:
            self._sink.sync()
            self._synced, self._dirty = self._clock.now(), False

    def _write(self, results: list[Result]) -> None:
        if not results:
            return
        self._sink.write(results)
        if not self._dirty:
            self._dirty, self._synced = True, self._clock.now()
        for result in results:
            self.counts.add(result.outcome)
        self._progress(self.counts)
