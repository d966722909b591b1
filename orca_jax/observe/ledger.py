"""The one observer behind the metrics and the live page: what happened is counted once, whoever looks at it later.

It runs on the engine's thread, so each iteration costs it one pass over the rows and no allocation per token. Readers
take their copies under the same lock, in microseconds, and do the rest of their work outside.
"""

import threading
from collections import Counter, deque
from dataclasses import dataclass

from orca_jax.core.events import Event, IterationDone, IterationLaunched, RequestArrived, SequenceFinished
from orca_jax.core.sequence import Phase
from orca_jax.observe import histogram
from orca_jax.observe.histogram import Counts, Histogram
from orca_jax.observe.life import Life

Key = tuple[str, int]
Column = tuple[IterationLaunched, IterationDone]

BUCKETS = {
    "time_to_first_token_seconds": histogram.FIRST_TOKEN_SECONDS,
    "inter_token_latency_seconds": histogram.TOKEN_SECONDS,
    "request_time_per_output_token_seconds": histogram.TOKEN_SECONDS,
    "e2e_request_latency_seconds": histogram.REQUEST_SECONDS,
    "request_queue_time_seconds": histogram.REQUEST_SECONDS,
    "request_inference_time_seconds": histogram.REQUEST_SECONDS,
    "request_prefill_time_seconds": histogram.REQUEST_SECONDS,
    "request_decode_time_seconds": histogram.REQUEST_SECONDS,
    "request_prompt_tokens": histogram.TOKENS,
    "request_generation_tokens": histogram.TOKENS,
    "request_max_num_generation_tokens": histogram.TOKENS,
    "request_params_n": histogram.ANSWERS,
    "request_params_max_tokens": histogram.TOKENS,
    "iteration_tokens_total": histogram.ITERATION_TOKENS,
    "iteration_rows": histogram.ROWS,
    "iteration_time_seconds": histogram.TOKEN_SECONDS,
}


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything that has been counted, at one moment. Seconds on the engine's clock."""

    running: int
    waiting: int
    num_pages: int
    pages_reserved: int
    pages_used: int
    counters: dict[str, float]
    finished: dict[str, int]
    histograms: dict[str, Counts]


@dataclass(slots=True)
class _Asked:
    """A request of which not all sequences have ended."""

    event: RequestArrived
    left: int
    longest: int = 0


class Ledger:
    """Call it with the engine's events; read it from any thread. Remembers the last `most_columns` iterations.

    `running` sequences have been in an iteration and have not ended, `waiting` ones have not been in any.
    """

    def __init__(self, most_columns: int = 512, most_ended: int = 1024):
        self.lock = threading.Lock()
        self.columns: deque[Column] = deque(maxlen=most_columns)
        self.lives: dict[Key, Life] = {}
        self.ended: dict[Key, Life] = {}  # the latest `most_ended`, in the order in which they ended
        self.histograms = {name: Histogram(bounds) for name, bounds in BUCKETS.items()}
        self.counters: Counter[str] = Counter()
        self._seconds = {"host_gap_seconds": 0.0, "host_wait_seconds": 0.0}
        self._finished = Counter({"stop": 0, "length": 0, "abort": 0, "error": 0})
        self._most_ended = most_ended
        self._asked: dict[str, _Asked] = {}
        self._launched: dict[int, IterationLaunched] = {}
        self._num_lives = 0
        self._running = 0
        self._pages = (0, 0, 0)  # reserved, used, in all
        self._last_done: float | None = None
        self._device_free: float | None = None  # since when nothing has been in flight while there was work

    def __call__(self, event: Event) -> None:
        with self.lock:
            match event:
                case IterationLaunched():
                    self._launch(event)
                case IterationDone():
                    self._done(event)
                case RequestArrived():
                    self._arrive(event)
                case SequenceFinished():
                    self._end(event)

    def read(self) -> Reading:
        with self.lock:
            return Reading(
                self._running, len(self.lives) - self._running, self._pages[2], *self._pages[:2],
                {**self.counters, **self._seconds}, dict(self._finished),
                {name: counted.read() for name, counted in self.histograms.items()},
            )  # fmt: skip

    @property
    def num_iterations(self) -> int:
        """How many have come back."""
        return self.counters["iterations"]

    def _arrive(self, event: RequestArrived) -> None:
        self._asked[event.request_id] = _Asked(event, event.n)
        for index in range(event.n):
            life = Life(self._num_lives, event.request_id, index, event.prompt_len, event.max_tokens, event.time)
            self.lives[event.request_id, index] = life
            self._num_lives += 1

    def _launch(self, event: IterationLaunched) -> None:
        if self._device_free is not None and not self._launched:
            self._seconds["host_gap_seconds"] += max(0.0, event.time - self._device_free)
        self._device_free = None
        self._launched[event.iteration] = event
        self._pages = (event.pages_reserved, event.pages_used, event.num_pages)
        for row in event.rows:
            if row.start == 0:
                life = self.lives.get((row.request_id, row.index))
                if life is not None and life.scheduled is None:
                    life.scheduled = event.time
                    self._running += 1
                    self.histograms["request_queue_time_seconds"].add(event.time - life.arrived)

    def _done(self, event: IterationDone) -> None:
        launched = self._launched.pop(event.iteration, None)
        if launched is None:  # it was launched before this observer listened
            return
        self.columns.append((launched, event))
        num_tokens, num_prompt = self._take_tokens(launched, event.time)
        counters = self.counters
        counters["iterations"] += 1
        counters["prompt_tokens"] += num_prompt
        counters["generation_tokens"] += event.num_kept
        counters["padding_tokens"] += max(0, event.shape_tokens - num_tokens)
        counters["compiles_after_warmup"] += event.num_compiled
        self._seconds["host_wait_seconds"] += event.waited
        self.histograms["iteration_tokens_total"].add(num_tokens)
        self.histograms["iteration_rows"].add(len(launched.rows))
        # launched ahead of its predecessor's end, it only counts from that end; after a pause, from its launch
        begun = launched.time if self._last_done is None else max(self._last_done, launched.time)
        self.histograms["iteration_time_seconds"].add(event.time - begun)
        self._last_done = event.time
        self._device_free = event.time if self.lives and not self._launched else None
        self._keep_pages(event.pages_reserved)

    def _take_tokens(self, launched: IterationLaunched, now: float) -> tuple[int, int]:
        """Give each row's sequence its token; returns how many tokens were processed, and how many of prompts."""
        num_tokens = num_prompt = usual = 0
        lives, before = self.lives, self._last_done
        for request_id, index, phase, start, count in launched.rows:
            num_tokens += count
            if phase is not Phase.INCREMENT:
                num_prompt += count
            life = lives.get((request_id, index))
            if life is None or start + count < life.prompt_len:
                continue  # it has ended, with this very token or before; or it has more of its prompt to come
            if life.last_token == before and before is not None:
                usual += 1  # had its last token in the iteration before, as most have: one value for all of them
                life.num_output += 1
                life.last_token = now
            else:
                self._token(life, now)
        if usual and before is not None:
            self.histograms["inter_token_latency_seconds"].add(now - before, usual)
        return num_tokens, num_prompt

    def _token(self, life: Life, now: float) -> None:
        if life.last_token is None:
            life.first_token = now
            self.histograms["time_to_first_token_seconds"].add(now - life.arrived)
        else:
            self.histograms["inter_token_latency_seconds"].add(now - life.last_token)
        life.num_output += 1
        life.last_token = now

    def _end(self, event: SequenceFinished) -> None:
        life = self.lives.pop((event.request_id, event.index), None)
        if life is None:  # it came before this observer listened
            return
        if event.num_output_tokens > life.num_output:
            self._token(life, event.time)  # its last token: the iteration's own event comes after this one
        life.ended, life.ended_at, life.reason = event.time, self.num_iterations, event.reason
        self.ended[event.request_id, event.index] = life
        if len(self.ended) > self._most_ended:
            del self.ended[next(iter(self.ended))]
        self._running -= life.scheduled is not None
        self._finished[event.reason] += 1
        self._keep_pages(event.pages_reserved)
        if not self.lives:
            self._device_free = None
        self._measure(life, event.time)

    def _measure(self, life: Life, now: float) -> None:
        """What is known of a sequence once it has ended, and of its request with the last of them."""
        add = {name: counted.add for name, counted in self.histograms.items()}
        add["e2e_request_latency_seconds"](now - life.arrived)
        add["request_generation_tokens"](life.num_output)
        if life.scheduled is not None:
            add["request_inference_time_seconds"](now - life.scheduled)
            if life.first_token is not None:
                add["request_prefill_time_seconds"](life.first_token - life.scheduled)
                add["request_decode_time_seconds"](now - life.first_token)
        per_token = life.time_per_output_token
        if per_token is not None:
            add["request_time_per_output_token_seconds"](per_token)
        asked = self._asked[life.request_id]
        asked.left -= 1
        asked.longest = max(asked.longest, life.num_output)
        if not asked.left:
            del self._asked[life.request_id]
            add["request_prompt_tokens"](life.prompt_len)
            add["request_params_n"](asked.event.n)
            add["request_params_max_tokens"](asked.event.max_tokens)
            add["request_max_num_generation_tokens"](asked.longest)

    def _keep_pages(self, reserved: int) -> None:
        """Pages come back between launches, too; used ones are counted at launches only, and are reserved ones."""
        self._pages = (reserved, min(self._pages[1], reserved), self._pages[2])
