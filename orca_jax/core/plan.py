"""The bridge between the two towers: what to run in one iteration, and what came back.

Plain data on purpose. The same two types serve the local executor, the fake executor of the tests, the recorder, and
(later) the control messages to worker processes and the simulator.
"""

from dataclasses import dataclass, field

import numpy as np

NOT_A_NUMBER = -2
"""Stands where a sampled token would, when there was none to choose because logits are not finite."""
NOTHING_ALLOWED = -3
"""The same, because every token is forbidden (or minus infinity by itself)."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one sequence chooses its tokens: numbers only, everything already validated and resolved.

    `temperature` 0 is greedy. `top_k` 0 and `top_p` 1 are off. `seed` is 64 bits; with `index` (which of the `n`
    sequences of its request) and the position of the token it makes the key of the random draw, so that a sample
    depends neither on the request's id nor on the company it runs in.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    index: int = 0
    logprobs: int | None = None  # how many of the most likely tokens to report beside the sampled one
    prompt_logprobs: int | None = None
    prompt_len: int = 0  # positions before this one are prompt: penalties tell the two apart
    min_tokens: int = 0  # `stop_ids` cannot be sampled before so many output tokens
    stop_ids: tuple[int, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[tuple[int, ...], ...] = ()

    @property
    def is_plain_greedy(self) -> bool:
        """Nothing but the largest logit decides, and nothing but the token is asked for."""
        return self.temperature == 0.0 and self.logprobs is None and not (self.has_penalties or self.has_constraints)

    @property
    def has_penalties(self) -> bool:
        return bool(self.presence_penalty or self.frequency_penalty) or self.repetition_penalty != 1.0

    @property
    def has_constraints(self) -> bool:
        """Needs the per-slot tables of biases, allowed tokens and bad words."""
        return bool(self.logit_bias or self.bad_words or self.min_tokens) or self.allowed_token_ids is not None


@dataclass(frozen=True, slots=True, eq=False)
class Seat:
    """Where a sequence lives on the device while it runs: constant from admission until its pages change.

    `slot` is its row of the per-sequence device tables, `pages i32[p]` the K/V pages it owns, in order of position.
    """

    slot: int
    pages: np.ndarray
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence's share of an iteration: `count` tokens at positions `start .. start + count - 1`.

    `tokens` are those tokens, or empty where the only one is still on the device (sampled by an iteration that the
    host has not read). `samples` says whether a new token comes out: true when the row ends at the last known position.
    `next_prompt_token` is the prompt's token after the row's last one, set only when the request wants the
    log-probabilities of its prompt (a chunk's last token is scored against the first of the next chunk).
    """

    seat: Seat
    start: int
    count: int
    tokens: tuple[int, ...]
    samples: bool
    next_prompt_token: int | None = None


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One iteration: its rows in order of arrival. No row ever appears twice."""

    rows: tuple[Row, ...]

    @property
    def num_tokens(self) -> int:
        return sum(row.count for row in self.rows)


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probability and rank (1 is the most likely) of a token, and the `top` (token id, log-probability) pairs."""

    token: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class StepResult:
    """What an iteration gave, row by row in the plan's order.

    `tokens[i]` is the sampled token id, -1 where the row does not sample, `NOT_A_NUMBER` or
    `NOTHING_ALLOWED` where there was nothing to choose from. `logprobs` and `prompt_logprobs` hold an
    entry only for the rows (by index) that asked for them; the latter one for each prompt token of the row that has a
    successor within the prompt, describing that successor. `shape` are the tokens and rows of the compiled shape that it
    ran in, (0, 0) where there is none; `num_compiled` programs had to be compiled for it.
    """

    tokens: tuple[int, ...]
    logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)
    prompt_logprobs: dict[int, tuple[TokenLogprobs, ...]] = field(default_factory=dict)
    shape: tuple[int, int] = (0, 0)
    num_compiled: int = 0
