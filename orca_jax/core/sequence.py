"""How far an answer has got. A request with `n = 3` has three sequences; each runs by itself."""

from enum import Enum

from orca_jax.core.grammar import Matcher
from orca_jax.core.plan import Sampling, Seat
from orca_jax.core.request import Request


class Phase(Enum):
    """The paper's phases, derived and never stored: the step does not ask, metrics and pictures do."""

    WAITING = "waiting"
    INITIATION = "initiation"
    CHUNK = "chunk"
    INCREMENT = "increment"


class Sequence:
    """The state of one answer, owned by the pool and changed by the scheduler alone.

    Positions count from 0 at the first prompt token. `num_launched` of them have been handed to the executor;
    `in_flight` rows have not come back, `unread` of those bring a token the host has not seen. `max_output` is the
    request's `max_tokens`, kept here with `prompt_len` because every iteration asks for them. `matcher` follows the
    request's grammar, from the first row that brings a token.
    """

    __slots__ = ("request", "index", "prompt_len", "max_output", "seat", "output", "num_launched", "in_flight",
                 "unread", "iterations", "finish_reason", "stop_reason", "matcher")  # fmt: skip

    def __init__(self, request: Request, index: int):
        if request.params.max_tokens is None:
            raise ValueError(f"request {request.request_id} reached the engine without max_tokens")
        self.request = request
        self.index = index
        self.prompt_len = len(request.prompt_token_ids)
        self.max_output = request.params.max_tokens
        self.seat: Seat | None = None
        self.output: list[int] = []
        self.num_launched = 0
        self.in_flight = 0
        self.unread = 0
        self.iterations = 0
        self.finish_reason: str | None = None
        self.stop_reason: str | int | None = None
        self.matcher: Matcher | None = None

    @property
    def key(self) -> tuple[str, int]:
        return (self.request.request_id, self.index)

    @property
    def max_len(self) -> int:
        """The paper's `max_tokens`: prompt and output together, in tokens."""
        return self.prompt_len + self.max_output

    @property
    def num_tokens(self) -> int:
        """Tokens that exist, here or still on the device."""
        return self.prompt_len + len(self.output) + self.unread

    @property
    def num_pending(self) -> int:
        """Tokens that exist and have not been handed to the executor."""
        return self.num_tokens - self.num_launched

    @property
    def will_end_by_length(self) -> bool:
        """True once the last token that `max_tokens` allows has been launched, seen by the host or not."""
        return len(self.output) + self.unread >= self.max_output

    @property
    def must_be_read(self) -> bool:
        """Whether a token is on its way without which nothing can be launched: what may follow it is for a grammar."""
        return self.unread > 0 and self.request.grammar is not None

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None

    def phase_of(self, start: int, count: int) -> Phase:
        """What a row at `start` with `count` tokens is to this sequence (the prompt whole, a part of it, or neither)."""
        if start >= self.prompt_len:
            return Phase.INCREMENT
        return Phase.INITIATION if start == 0 and count >= self.prompt_len else Phase.CHUNK

    def sampling(self) -> Sampling:
        """The numbers the device needs to choose this sequence's tokens."""
        p = self.request.params
        greedy = p.temperature == 0.0
        return Sampling(
            temperature=p.temperature,
            top_k=0 if greedy else max(p.top_k, 0),
            top_p=1.0 if greedy else p.top_p,
            min_p=0.0 if greedy else p.min_p,
            presence_penalty=p.presence_penalty,
            frequency_penalty=p.frequency_penalty,
            repetition_penalty=p.repetition_penalty,
            seed=p.seed or 0,
            index=self.index,
            logprobs=p.logprobs,
            prompt_logprobs=p.prompt_logprobs if self.index == 0 else None,  # the prompt is one, whatever n is
            prompt_len=self.prompt_len,
            min_tokens=p.min_tokens,
            stop_ids=self.request.stop_ids,
            logit_bias=tuple(sorted((p.logit_bias or {}).items())),
            allowed_token_ids=None if p.allowed_token_ids is None else tuple(p.allowed_token_ids),
            bad_words=self.request.bad_words,
        )
