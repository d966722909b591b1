"""What the client receives, under the names that users of such engines know."""

from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Logprob:
    """Log-probability of a token, its rank (1 is the most likely) and its text."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass(slots=True)
class CompletionOutput:
    """One of the `n` answers. `finish_reason` is None while it grows, then "stop", "length", "abort" or "error".

    `stop_reason` is the stop string or stop token id that ended it, None for end-of-sequence and length.
    """

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None

    def finished(self) -> bool:
        return self.finish_reason is not None


@dataclass(slots=True)
class RequestMetrics:
    """When things happened, in seconds on the engine's clock; None until they have."""

    arrival_time: float
    first_scheduled_time: float | None = None
    first_token_time: float | None = None
    finished_time: float | None = None


@dataclass(slots=True)
class RequestOutput:
    """What is known of a request: its prompt and its answers so far, `finished` once all of them have ended.

    `seed` is the seed in force: the request's own, or the one derived for it, so that any answer can be had again.
    `error` says why an answer ended with "error"; `error_parameter` is the request's own field that is to blame, None
    where the request is not. With `delta` it holds only what is new since the output before.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    metrics: RequestMetrics | None = None
    seed: int | None = None
    num_cached_tokens: int = 0
    error: str | None = field(default=None)
    error_parameter: str | None = None
    delta: bool = field(default=False, repr=False)


def merged(first: RequestOutput, then: RequestOutput) -> RequestOutput:
    """Two outputs of one request as one: of deltas the sum, of anything that is cumulative the later."""
    if not first.delta:
        return then
    answers = {answer.index: answer for answer in first.outputs}
    for answer in then.outputs:
        before = answers.get(answer.index)
        answers[answer.index] = answer if before is None else _joined(before, answer)
    prompt = [*(first.prompt_logprobs or []), *(then.prompt_logprobs or [])] or None
    return replace(then, outputs=list(answers.values()), prompt_logprobs=prompt)


def _joined(first: CompletionOutput, then: CompletionOutput) -> CompletionOutput:
    logprobs = None if first.logprobs is None else [*first.logprobs, *(then.logprobs or [])]
    return replace(then, text=first.text + then.text, token_ids=[*first.token_ids, *then.token_ids], logprobs=logprobs)
