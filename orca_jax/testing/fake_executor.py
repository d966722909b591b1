"""An executor without a device: a model made of arithmetic whose answers betray every mistake of the host tower.

Its next token is a hash of all that it reads back through the page table, so a page shared by two sequences, a wrong
position, a lost or repeated token, or a row of somebody else's changes the answer. `FakeModel.expected` says from the
prompt alone what the answer must be.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from orca_jax.core.errors import EngineError
from orca_jax.core.grammar import Masks
from orca_jax.core.plan import NOTHING_ALLOWED, Row, Sampling, Seat, StepPlan, StepResult, TokenLogprobs
from orca_jax.core.request import Request
from orca_jax.core.sequence import Sequence

_MASK = 2**64 - 1
_NOTHING = -1


def _mix(value: int, *more: int) -> int:
    """A well spread 64-bit number from any integers; the order counts."""
    for item in more:
        value = ((value ^ (item & _MASK)) * 0x9E3779B97F4A7C15 + 0x7F4A7C15) & _MASK
        value ^= value >> 29
    return value


@dataclass(frozen=True)
class FakeModel:
    """Ids below `vocab_size`. `eos_id` comes about once in `eos_every` tokens, as the hash has it; None is never."""

    vocab_size: int = 1000
    eos_id: int = 0
    eos_every: int | None = None

    def state(self, previous: int, token: int, position: int) -> int:
        """What stands in the K/V of a position: as in a real model, it depends on everything before it."""
        return _mix(previous, token, position)

    def choose(self, state: int, num_output: int, sampling: Sampling, mask: np.ndarray | None = None) -> int:
        """The token after a prefix with this `state`, the output token number `num_output` (from 0) of its sequence.

        `mask` as in `core/grammar.py`; any of its tokens that `allowed_token_ids` do not exclude may come, `eos_id`
        like the others.
        """
        draw = _mix(state, sampling.seed, sampling.index)
        if mask is not None:
            allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
            if sampling.allowed_token_ids is not None:
                allowed = np.intersect1d(allowed, sampling.allowed_token_ids)
            return int(allowed[draw // 7 % len(allowed)]) if len(allowed) else NOTHING_ALLOWED
        too_early = num_output < sampling.min_tokens
        if self.eos_every is not None and draw % self.eos_every == 0 and not too_early:
            return self.eos_id
        token = draw // 7 % self.vocab_size
        while token == self.eos_id or (too_early and token in sampling.stop_ids):
            token = (token + 1) % self.vocab_size
        return token

    def expected(self, request: Request, index: int = 0) -> tuple[list[int], str]:
        """The tokens of the request's answer number `index` and why it ends: "stop" or "length"."""
        sequence = Sequence(request, index)
        sampling = sequence.sampling()
        state = 0
        for position, token in enumerate(request.prompt_token_ids):
            state = self.state(state, token, position)
        output: list[int] = []
        while len(output) < sequence.max_output:
            token = self.choose(state, len(output), sampling)
            output.append(token)
            if token in request.stop_ids and len(output) >= sampling.min_tokens:
                return output, "stop"
            state = self.state(state, token, sequence.prompt_len + len(output) - 1)
        return output, "length"


@dataclass(slots=True)
class _Life:
    """A slot from one sequence's first row until the next sequence's."""

    seat: Seat
    number: int
    next_start: int = 0
    last_token: int = _NOTHING


class FakeExecutor:
    """Runs plans at once, in program order, and shows their results at `collect` only, oldest first.

    Raises EngineError on a launch that no correct scheduler makes: a position launched twice or out of order, pages
    that two live sequences share, a token that is not the one sampled, a row beyond its pages.
    """

    def __init__(self, model: FakeModel, num_pages: int, page_size: int, num_slots: int, depth: int = 1):
        self.model = model
        self.page_size = page_size
        self._depth = depth
        self._tokens = np.full((num_pages, page_size), _NOTHING, np.int64)
        self._positions = np.full((num_pages, page_size), _NOTHING, np.int64)
        self._states = np.zeros((num_pages, page_size), np.uint64)
        self._owner = np.full(num_pages, _NOTHING, np.int64)  # the life that was seated on a page last
        self._lives: list[_Life | None] = [None] * num_slots
        self._num_lives = 0
        self._results: deque[StepResult] = deque()
        self._num_launched = 0
        self._closed = False

    @property
    def depth(self) -> int:
        return self._depth

    @property
    def num_in_flight(self) -> int:
        return len(self._results)

    def launch(self, plan: StepPlan, masks: Callable[[], Masks] | None = None) -> None:
        _require(not self._closed, "launched on a closed executor")
        _require(bool(plan.rows), "launched an empty plan")
        pages = np.concatenate([row.seat.pages for row in plan.rows])
        _require(len(np.unique(pages)) == len(pages), "two rows of one plan share a page, or one lists it twice")
        given = {} if masks is None else masks()
        tokens, logprobs, prompt_logprobs = [], {}, {}
        for i, row in enumerate(plan.rows):
            life = self._seat(row)
            described = self._write(row, life)
            token = self._sample(row, life, given.get(i)) if row.samples else _NOTHING
            tokens.append(token)
            if row.samples and row.seat.sampling.logprobs is not None:
                logprobs[i] = _describe(token, row.seat.sampling.logprobs)
            if described:
                prompt_logprobs[i] = described
        self._results.append(StepResult(tuple(tokens), logprobs, prompt_logprobs))
        self._num_launched += 1

    def collect(self) -> StepResult:
        _require(bool(self._results), "collected with nothing in flight")
        return self._results.popleft()

    def statistics(self) -> dict[str, float | int | str]:
        return {"executor": "fake", "steps": self._num_launched}

    def close(self) -> None:
        self._closed = True
        self._results.clear()

    def _seat(self, row: Row) -> _Life:
        """The life that this row continues or, at position 0, begins."""
        seat = row.seat
        life = self._lives[seat.slot]
        if row.start == 0:
            _require(life is None or life.seat is not seat, f"slot {seat.slot} begins twice with one seat")
            life = self._lives[seat.slot] = _Life(seat, self._num_lives)
            self._num_lives += 1
            self._owner[seat.pages] = life.number
        if life is None:
            raise EngineError(f"a plan that cannot be right: slot {seat.slot} begins at position {row.start}")
        if seat is not life.seat:
            kept = life.seat.pages
            _require(np.array_equal(seat.pages[: len(kept)], kept), f"slot {seat.slot} changed hands or lost pages")
            self._owner[seat.pages[len(kept) :]] = life.number
            life.seat = seat
        _require(bool((self._owner[seat.pages] == life.number).all()), f"slot {seat.slot} runs on pages given away")
        _require(row.start == life.next_start, f"slot {seat.slot} is at {life.next_start}, launched at {row.start}")
        _require(row.start + row.count <= len(seat.pages) * self.page_size, f"slot {seat.slot} runs out of its pages")
        return life

    def _write(self, row: Row, life: _Life) -> tuple[TokenLogprobs, ...]:
        """Write the row's K/V; returns what its prompt log-probabilities are, where they were asked for."""
        tokens = row.tokens
        on_device = row.start >= row.seat.sampling.prompt_len
        if on_device:
            _require(row.count == 1 and tokens in ((), (life.last_token,)), f"{tokens} is not what was sampled last")
            tokens = (life.last_token,)
        _require(len(tokens) == row.count >= 1, f"a row of {row.count} positions has {len(tokens)} tokens")
        state = self._read(row.seat, row.start)
        for position, token in enumerate(tokens, row.start):
            state = self.model.state(state, token, position)
            page, offset = row.seat.pages[position // self.page_size], position % self.page_size
            self._tokens[page, offset] = token
            self._positions[page, offset] = position
            self._states[page, offset] = state
        life.next_start = row.start + row.count
        return _describe_prompt(row)

    def _sample(self, row: Row, life: _Life, mask: np.ndarray | None) -> int:
        end = row.start + row.count
        sampling = row.seat.sampling
        life.last_token = self.model.choose(self._read(row.seat, end), end - sampling.prompt_len, sampling, mask)
        return life.last_token

    def _read(self, seat: Seat, length: int) -> int:
        """The state after the first `length` positions, computed again from what the pages hold of them.

        Where a stored state contradicts the tokens below it, both go into the answer, which is then wrong, as it
        would be on a device.
        """
        positions = np.arange(length)
        pages, offsets = seat.pages[positions // self.page_size], positions % self.page_size
        held = zip(
            self._tokens[pages, offsets].tolist(),
            self._positions[pages, offsets].tolist(),
            self._states[pages, offsets].tolist(),
            strict=True,
        )
        state = 0
        for token, position, stored in held:
            state = self.model.state(state, token, position)
            if state != stored:
                state = _mix(state, stored)
        return state


def _describe(token: int, num_top: int) -> TokenLogprobs:
    """Log-probabilities that a test can foresee: token t has -1 - t / 1000 and rank 1, the next ids follow it."""
    top = tuple((token + i, -1.0 - (token + i) / 1000) for i in range(num_top))
    return TokenLogprobs(token, -1.0 - token / 1000, 1, top)


def _describe_prompt(row: Row) -> tuple[TokenLogprobs, ...]:
    """For each of the row's prompt tokens that another prompt token follows, that token."""
    num_top = row.seat.sampling.prompt_logprobs
    if num_top is None or row.start >= row.seat.sampling.prompt_len:
        return ()
    last = row.start + row.count == row.seat.sampling.prompt_len
    _require(last == (row.next_prompt_token is None), f"next_prompt_token is {row.next_prompt_token}")
    followers = row.tokens[1:] if row.next_prompt_token is None else (*row.tokens[1:], row.next_prompt_token)
    return tuple(_describe(token, num_top) for token in followers)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise EngineError(f"a plan that cannot be right: {message}")
