"""The loop: plan, launch, absorb the oldest iteration in flight."""

from collections import deque
from collections.abc import Iterable
from itertools import islice

from orca_jax.core.clock import Clock, MonotonicClock
from orca_jax.core.errors import EngineError
from orca_jax.core.events import (
    Event,
    IterationDone,
    IterationLaunched,
    Observer,
    RequestArrived,
    RowRecord,
    SequenceFinished,
)
from orca_jax.core.executor import Executor
from orca_jax.core.outputs import RequestOutput
from orca_jax.core.request import Request
from orca_jax.core.sequence import Sequence
from orca_jax.engine.grammars import Grammars
from orca_jax.engine.no_choice import blame
from orca_jax.engine.output import OutputProcessor
from orca_jax.scheduling.scheduler import Batch, Scheduler

MOST_WAITING_SHOWN = 256  # an event names at most so many, so that a long queue does not slow the loop


class Engine:
    """Serves requests, one iteration of all selected ones at a time. One thread; nothing happens between calls.

    Up to `executor.depth + lookahead` iterations are in flight. A request ends exactly once, whatever happens: should
    the executor fail, all live ones end with `finish_reason="error"`, `failure` says why, and nothing more is taken.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        output: OutputProcessor,
        *,
        clock: Clock | None = None,
        observers: Iterable[Observer] = (),
    ):
        self.scheduler = scheduler
        self.executor = executor
        self.output = output
        self.clock = MonotonicClock() if clock is None else clock
        self.observers = tuple(observers)
        self.max_in_flight = executor.depth + scheduler.lookahead
        self.grammars = Grammars(scheduler.max_batch_size)
        self.failure: EngineError | None = None
        self._in_flight: deque[Batch] = deque()
        self._num_launched = 0
        self._num_done = 0
        self._undelivered = False  # an answer ended outside of a step
        self._closed = False

    @property
    def has_unfinished(self) -> bool:
        """Whether `step` has anything to do: to run, to take back, or to deliver."""
        return bool(self.scheduler.pool or self._in_flight or self._undelivered)

    def add_request(self, request: Request) -> None:
        """Take a request in. Raises EngineError once the engine has failed or is closed, RequestError for a bad one."""
        if self._closed:
            raise EngineError("the engine is closed; it takes no more requests.")
        if self.failure is not None:
            raise self.failure
        self.scheduler.verify(request)
        self.output.add(request)  # refuses an id whose last output has not been taken, which the pool has forgotten
        self.scheduler.add(request)
        if self.observers:
            prompt_len, params = len(request.prompt_token_ids), request.params
            arrived = RequestArrived(
                request.request_id, request.arrival_time, prompt_len, params.max_tokens or 0, params.n
            )
            self._emit(arrived)

    def abort(self, request_id: str) -> None:
        """End a request now; its last output comes with the next `step`. An unknown or ended one is ignored."""
        self._end(self.scheduler.pool.of_request(request_id), "abort")

    def step(self) -> list[RequestOutput]:
        """One turn of the loop. Returns what is new to the clients, often nothing while the pipeline fills.

        A failure ends every live request and is returned as their outputs; from then on `step` raises it.
        """
        if self.failure is not None and not self._undelivered:
            raise self.failure
        try:
            if self.failure is None:
                self._turn()
        except BaseException as error:
            self.fail(error)
            if not isinstance(error, Exception):
                raise
        self._undelivered = False
        return self.output.take()

    def statistics(self) -> dict[str, float | int | str]:
        return {
            "iterations": self._num_done,
            "iterations_in_flight": len(self._in_flight),
            **self.scheduler.statistics(),
            **self.executor.statistics(),
        }

    def check(self) -> None:
        """Raise EngineError where any owner of memory contradicts itself, or an idle engine still holds some."""
        self.scheduler.check()
        self.output.check()
        if not self.scheduler.pool.num_requests and self.scheduler.kv.pages_reserved:
            raise EngineError(f"nothing runs, but {self.scheduler.kv.pages_reserved} pages are reserved")

    def close(self) -> None:
        """End what is live with "abort" and give the executor's memory back. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            self._end(list(self.scheduler.pool.by_arrival()), "abort")
        finally:  # an observer that fails must not keep the device's memory
            self._in_flight.clear()
            self.executor.close()

    def _turn(self) -> None:
        """Algorithm 1, except that instead of an empty batch it waits for an arrival or a return."""
        batch = self.scheduler.schedule()
        if batch.sequences:
            self._launch(batch)
        if self._in_flight and (not batch.sequences or len(self._in_flight) == self.max_in_flight):
            self._absorb()
        elif not batch.sequences and self.scheduler.pool:
            raise EngineError(f"none of {len(self.scheduler.pool)} sequences can move, and none is in flight.")

    def _launch(self, batch: Batch) -> None:
        now = self.clock.now()
        self.executor.launch(batch.plan, self.grammars.masks(batch))
        self._in_flight.append(batch)
        for sequence in batch.sequences:
            if sequence.iterations == 1:
                self.output.scheduled(sequence.request.request_id, now)
        if self.observers:
            self._emit(self._describe(batch, now))
        self._num_launched += 1
        self._fail_grammars(now)

    def _absorb(self) -> None:
        """Wait for the oldest iteration in flight and hand its tokens on."""
        asked = self.clock.now()
        result = self.executor.collect()
        batch = self._in_flight.popleft()
        now = self.clock.now()
        for row, entries in result.prompt_logprobs.items():
            sequence = batch.sequences[row]
            if not sequence.finished:
                self.output.push_prompt_logprobs(*sequence.key, entries)
        new = self.scheduler.update(batch, result)
        failed: list[tuple[Request, int]] = []
        for sequence, token, logprobs in new:
            if token < 0:
                failed.append((sequence.request, token))
                continue
            stop = self.output.push(*sequence.key, token, logprobs, now)
            if sequence.finish_reason != "stop" and (stop is not None or self.grammars.follow(sequence, token)):
                self.scheduler.finish(sequence, "stop", stop)
            if sequence.finished:
                self._announce([sequence])
        for request, token in failed:  # last, so that siblings keep what this iteration has given them
            message, field = blame(request, token)
            self._fail_request(request.request_id, message, now, field)
        self._fail_grammars(now)
        if self.observers:
            num_sampled = sum(row.samples for row in batch.plan.rows)
            reserved = self.scheduler.kv.pages_reserved
            self._emit(
                IterationDone(self._num_done, now, num_sampled, len(new), now - asked, *result.shape,
                              result.num_compiled, reserved)
            )  # fmt: skip
        self._num_done += 1
        if not self.scheduler.pool and not self._in_flight:
            self.check()  # going idle is the moment at which nothing may be held, and at which looking costs nobody

    def _fail_grammars(self, now: float) -> None:
        while self.grammars.failed:
            self._fail_request(*self.grammars.failed.popitem(), now)

    def _fail_request(self, request_id: str, message: str, now: float, field: str | None = None) -> None:
        """End one request that cannot go on: no token to choose, a grammar that failed. The others do not notice."""
        self.output.error(request_id, message, now, field)
        self._end(self.scheduler.pool.of_request(request_id), "error")

    def _end(self, sequences: list[Sequence], reason: str) -> None:
        for sequence in sequences:
            self.scheduler.finish(sequence, reason)
        self._undelivered = self._undelivered or bool(sequences)
        self._announce(sequences)

    def _announce(self, sequences: list[Sequence]) -> None:
        """Tell the clients, then the observers, of each sequence that has just ended."""
        now = self.clock.now()
        for sequence in sequences:
            self.output.finish(*sequence.key, sequence.finish_reason, sequence.stop_reason, now)
        if self.observers:
            for sequence in sequences:
                reason, reserved = str(sequence.finish_reason), self.scheduler.kv.pages_reserved
                self._emit(SequenceFinished(*sequence.key, now, reason, len(sequence.output), reserved))

    def fail(self, error: BaseException) -> None:
        """End every live request with "error" and take nothing more; `failure` says why."""
        text = (str(error).splitlines() or [""])[0][:200]
        self.failure = EngineError(f"the engine failed and takes no more requests: {type(error).__name__}: {text}")
        self.failure.__cause__ = error
        self._in_flight.clear()
        live = list(self.scheduler.pool.by_arrival())
        self._undelivered = True
        for sequence in live:  # the clients first: what failed may be the very thing that the rest of this needs
            self.output.error(sequence.request.request_id, str(self.failure), self.clock.now())
        self._end(live, "error")

    def _describe(self, batch: Batch, now: float) -> IterationLaunched:
        kv = self.scheduler.kv
        return IterationLaunched(
            iteration=self._num_launched,
            time=now,
            rows=tuple(
                RowRecord(*sequence.key, sequence.phase_of(row.start, row.count), row.start, row.count)
                for row, sequence in zip(batch.plan.rows, batch.sequences, strict=True)
            ),
            waiting=tuple(sequence.key for sequence in islice(self.scheduler.waiting(), MOST_WAITING_SHOWN)),
            pages_reserved=kv.pages_reserved,
            pages_used=kv.pages_used,
            num_pages=kv.num_pages,
        )

    def _emit(self, event: Event) -> None:
        for observer in self.observers:
            observer(event)
