"""Iteration-level scheduling: the paper's Algorithm 1, with a token budget and a look ahead as switches.

Each iteration gives every selected sequence its pending tokens: a prompt, a chunk of one, or a single token. Nothing
here asks which of these it is; the phase is derived for whoever wants to see it.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from orca_jax.core.errors import ConfigError, RequestError
from orca_jax.core.plan import Row, Seat, StepPlan, StepResult, TokenLogprobs
from orca_jax.core.request import Request
from orca_jax.core.sequence import Sequence
from orca_jax.scheduling.admission import Admission, Reserve
from orca_jax.scheduling.kv_manager import KVManager
from orca_jax.scheduling.pool import RequestPool


@dataclass(frozen=True, slots=True)
class Batch:
    """What one iteration runs: the plan for the executor, and whose rows they are, in the same order."""

    plan: StepPlan
    sequences: tuple[Sequence, ...]


NewToken = tuple[Sequence, int, TokenLogprobs | None]


class Scheduler:
    """Selects batches and takes their results. Owns the pool; everything about memory is the K/V manager's.

    max_batch_size: most rows of an iteration, the paper's `max_bs`. max_batch_tokens: most tokens of an iteration;
    None, the paper's choice, is no bound. chunked: a prompt may be cut to fit that bound; otherwise it waits for an
    iteration that takes it whole. lookahead: how many rows a sequence may have in flight when its next is launched;
    0 is the paper's rule that no sequence is in two batches (one with a grammar keeps to it once its prompt has run).
    The faithful mode is `Scheduler(kv, max_batch_size)`.
    """

    def __init__(
        self,
        kv: KVManager,
        max_batch_size: int,
        *,
        max_batch_tokens: int | None = None,
        chunked: bool = False,
        lookahead: int = 0,
        admission: Admission | None = None,
    ):
        if max_batch_size < 1:
            raise ConfigError(f"max_batch_size must be at least 1, got {max_batch_size}.")
        if max_batch_tokens is not None and max_batch_tokens < 1:
            raise ConfigError(f"max_batch_tokens must be at least 1, or None for no bound, got {max_batch_tokens}.")
        if lookahead not in (0, 1):
            raise ConfigError(f"lookahead must be 0 or 1, got {lookahead}.")
        self.pool = RequestPool()
        self.kv = kv
        self.max_batch_size = max_batch_size
        self.max_batch_tokens = sys.maxsize if max_batch_tokens is None else max_batch_tokens
        self.chunked = chunked
        self.lookahead = lookahead
        self._admission = Reserve(kv) if admission is None else admission

    def add(self, request: Request) -> None:
        """Put a request in the pool. Raises RequestError where it could never run, or its id is in use."""
        self.verify(request)
        self.pool.add(request)

    def verify(self, request: Request) -> None:
        """Raise RequestError where the request could never run, and would block all that come after it."""
        prompt_len, max_tokens = len(request.prompt_token_ids), request.params.max_tokens
        if prompt_len < 1 or max_tokens is None or max_tokens < 1:
            raise RequestError(f"a prompt of {prompt_len} tokens with max_tokens={max_tokens} gives nothing to run.")
        pages = self.kv.pages_for(prompt_len + max_tokens)
        if pages > self.kv.num_pages:
            raise RequestError(
                f"prompt + max_tokens = {prompt_len} + {max_tokens} tokens need {pages} pages of {self.kv.page_size}, "
                f"but this engine has {self.kv.num_pages} (kv_cache_memory_bytes).",
                "max_tokens",
            )
        if prompt_len > self.max_batch_tokens and not self.chunked:
            raise RequestError(
                f"the prompt has {prompt_len} tokens, but an iteration takes at most {self.max_batch_tokens} and "
                "prompts are not cut (enable_chunked_prefill, max_num_batched_tokens)."
            )

    def schedule(self) -> Batch:
        """Select the next batch, empty where nothing can move. What is in flight is left alone until it returns."""
        rows: list[Row] = []
        sequences: list[Sequence] = []
        budget = self.max_batch_tokens
        for sequence in self.pool.by_arrival():
            if len(rows) == self.max_batch_size or budget == 0:
                break
            if sequence.in_flight > self.lookahead or sequence.will_end_by_length or sequence.must_be_read:
                continue
            pending = sequence.num_pending
            if pending > budget and not self.chunked:
                break
            take = min(pending, budget)  # a prompt, a chunk of it, or one token
            seat = self._admission.make_room(sequence, take)
            if seat is None:
                break  # stop, not skip: a younger request never overtakes
            budget -= take
            rows.append(_launch(sequence, seat, take, samples=take == pending))
            sequences.append(sequence)
        return Batch(StepPlan(tuple(rows)), tuple(sequences))

    def update(self, batch: Batch, result: StepResult) -> list[NewToken]:
        """Take back the oldest batch in flight. Returns the tokens that are still wanted, in the order of the rows.

        A sequence that has ended meanwhile (its end was seen one iteration late, or it was aborted) gets no token.
        Those that end with theirs leave the pool and give their memory back here. A sequence without a token to
        choose (`NOT_A_NUMBER`, `NOTHING_ALLOWED`) is left to the caller, who knows what else ends with it.
        """
        new: list[NewToken] = []
        for i, (row, sequence) in enumerate(zip(batch.plan.rows, batch.sequences, strict=True)):
            sequence.in_flight -= 1
            if not row.samples:
                continue
            sequence.unread -= 1
            if sequence.finish_reason is not None:
                continue
            token = result.tokens[i]
            new.append((sequence, token, result.logprobs.get(i)))
            if token >= 0:
                sequence.output.append(token)
                self._end_if_done(sequence, token)
        return new

    def finish(self, sequence: Sequence, reason: str, stop_reason: str | int | None = None) -> None:
        """End a sequence for a cause that the scheduler cannot see: a stop string, an abort, a failure.

        A stop string that its last token completed outranks the length as the reason.
        """
        if not sequence.finished:
            self.kv.release(sequence)
            self.pool.remove(sequence)
        sequence.finish_reason = reason
        sequence.stop_reason = stop_reason

    def waiting(self) -> Iterator[Sequence]:
        """The live sequences that have no row in flight, oldest first."""
        return (sequence for sequence in self.pool.by_arrival() if sequence.in_flight == 0)

    def check(self) -> None:
        """Raise EngineError where pool or K/V manager contradict themselves. Walks all that live: not for each step."""
        self.pool.check()
        self.kv.check(self.pool.by_arrival())

    def statistics(self) -> dict[str, float | int | str]:
        return {
            "requests": self.pool.num_requests,
            "sequences_running": self.kv.num_seated,
            "sequences_waiting": len(self.pool) - self.kv.num_seated,
            **self.kv.statistics(),
        }

    def _end_if_done(self, sequence: Sequence, token: int) -> None:
        request = sequence.request
        num_output = len(sequence.output)
        if token in request.stop_ids and num_output >= request.params.min_tokens:
            self.finish(sequence, "stop", None if token in request.eos_ids else token)
        elif num_output >= sequence.max_output:
            self.finish(sequence, "length")


def _launch(sequence: Sequence, seat: Seat, count: int, samples: bool) -> Row:
    """The sequence's next row, with its next `count` pending tokens; from here on they count as launched."""
    start = sequence.num_launched
    if start >= sequence.prompt_len:
        # Sampled tokens come one at a time: it has been read, or it is still on the device and the row names none.
        tokens, after = tuple(sequence.output[start - sequence.prompt_len :]), None
    else:
        prompt = sequence.request.prompt_token_ids
        tokens = prompt[start : start + count]
        after = None if samples or seat.sampling.prompt_logprobs is None else prompt[start + count]
    row = Row(seat, start, count, tokens, samples, after)
    sequence.num_launched += count
    sequence.in_flight += 1
    sequence.iterations += 1
    if samples:
        sequence.unread += 1
    return row
