"""`/v1/completions`: prompts to be continued."""

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from orca_jax.core.errors import RequestError
from orca_jax.core.outputs import CompletionOutput, RequestOutput
from orca_jax.core.request import Request
from orca_jax.core.unsupported import Neutral
from orca_jax.engine.door import Door
from orca_jax.protocol.call import (
    Call,
    Envelope,
    Numbering,
    Streamer,
    Usage,
    prompt_usage,
    raise_error,
    truncated,
)
from orca_jax.protocol.logprobs import CompletionLogprobs, TokenNames, prompt_logprobs
from orca_jax.protocol.sampling import REFUSED, Natural, SamplingBody

MAX_PROMPTS = 1024
DEFAULT_MAX_TOKENS = 16

Prompt = str | list[int]

COMPLETIONS_REFUSED: Neutral = {**REFUSED, "suffix": (None,), "best_of": (None, 1)}


class CompletionBody(SamplingBody):
    """The body of /v1/completions."""

    prompt: str | list[int] | list[str | list[int]] = Field(
        description=f"text, token ids, or a list of up to {MAX_PROMPTS} of either"
    )
    max_tokens: Natural | None = Field(default=DEFAULT_MAX_TOKENS, description="0 only with echo: the prompt is scored")
    logprobs: Natural | None = None
    echo: bool | None = False
    add_special_tokens: bool = True


class CompletionCall(Call[CompletionBody]):
    """Prompts, each with `n` answers; choices are numbered through."""

    url: ClassVar[str] = "/v1/completions"
    id_prefix: ClassVar[str] = "cmpl"

    @property
    def prompts(self) -> list[Prompt]:
        given = self.body.prompt
        if isinstance(given, str) or (given and isinstance(given[0], int)):
            return [given]
        return list(given)  # type: ignore[arg-type]

    @property
    def num_prompts(self) -> int:
        return len(self.prompts)

    @property
    def scores_only(self) -> bool:
        """Whether the prompt's own log-probabilities are all that is wanted; the engine makes one token, not shown."""
        return self.body.max_tokens == 0

    def make_requests(self, door: Door, numbering: Numbering) -> list[Request]:
        body, prompts = self.body, self.prompts
        if not prompts:
            raise RequestError("prompt must not be an empty list.", "prompt")
        if len(prompts) > MAX_PROMPTS:
            raise RequestError(
                f"prompt list length {len(prompts)} exceeds the maximum allowed count of {MAX_PROMPTS}.", "prompt"
            )
        if self.scores_only and not body.echo:
            raise RequestError("max_tokens must be at least 1 unless echo is set, got 0.", "max_tokens")
        if self.scores_only and body.stream:
            raise RequestError("max_tokens=0 scores a prompt, which does not stream.", "max_tokens")
        more: dict[str, Any] = {"max_tokens": 1 if self.scores_only else body.max_tokens, "logprobs": body.logprobs}
        if body.echo and body.logprobs is not None and body.prompt_logprobs is None:
            if body.stream:
                raise RequestError("echo with logprobs does not stream.", "echo")
            more["prompt_logprobs"] = body.logprobs
        params = (body.model_copy(update={"prompt_logprobs": None}) if "prompt_logprobs" in more else body).sampling(
            **more
        )
        return [
            door.make(
                truncated(door, prompt, body.truncate_prompt_tokens, params.max_tokens, body.add_special_tokens),
                params,
                request_id=f"{numbering.prefix}-{number}",
                arrival=numbering.first + number,
                arrival_time=numbering.time,
                add_special_tokens=body.add_special_tokens,
            )
            for number, prompt in enumerate(prompts)
        ]

    def answer(self, requests: Sequence[Request], outputs: Sequence[RequestOutput], envelope: Envelope,
               door: Door) -> dict[str, Any]:  # fmt: skip
        usage = prompt_usage(requests)
        choices = []
        for number, output in enumerate(outputs):
            raise_error(output)
            for answer in output.outputs:
                choices.append(self._choice(number, requests[number], output, answer, door))
                usage.completion_tokens += 0 if self.scores_only else len(answer.token_ids)
        return {**_head(envelope), "choices": choices, "usage": usage.as_json()}

    def streamer(self, requests: Sequence[Request], envelope: Envelope, door: Door) -> "CompletionStreamer":
        return CompletionStreamer(self, requests, envelope, door)

    def _choice(
        self, number: int, request: Request, output: RequestOutput, answer: CompletionOutput, door: Door
    ) -> dict[str, Any]:
        body, text, tokens = self.body, answer.text, list(answer.token_ids)
        entries = None if answer.logprobs is None else list(answer.logprobs)
        if self.scores_only:
            text, tokens, entries = "", [], None if entries is None else []
        shown = prompt_text(request, door) if body.echo else ""
        logprobs = None
        if body.logprobs is not None and entries is not None:
            lists = CompletionLogprobs(names_of(self, door), body.logprobs)
            if body.echo:
                tokens_all = [*request.prompt_token_ids, *tokens]
                logprobs = lists.of(tokens_all, [*(output.prompt_logprobs or []), *entries])
            else:
                logprobs = lists.of(tokens, entries)
        choice = {
            "index": number * request.params.n + answer.index,
            "text": shown + text,
            "logprobs": logprobs,
            "finish_reason": "length" if self.scores_only else answer.finish_reason,
            "stop_reason": None if self.scores_only else answer.stop_reason,
        }
        if body.prompt_logprobs is not None:
            choice["prompt_logprobs"] = prompt_logprobs(output.prompt_logprobs)
        if body.return_token_ids:
            choice |= {"token_ids": tokens, "prompt_token_ids": list(request.prompt_token_ids)}
        return choice


class CompletionStreamer(Streamer):
    """Chunks that each carry what is new of one choice."""

    def __init__(self, call: CompletionCall, requests: Sequence[Request], envelope: Envelope, door: Door):
        self._call = call
        self._requests = {request.request_id: (number, request) for number, request in enumerate(requests)}
        self._door = door
        self._head = _head(envelope)
        self._usage = prompt_usage(requests)
        self._logprobs: dict[int, CompletionLogprobs] = {}

    def begin(self) -> list[dict[str, Any]]:
        return []

    def push(self, output: RequestOutput) -> list[dict[str, Any]]:
        raise_error(output)
        number, request = self._requests[output.request_id]
        return [self._chunk(number, request, answer) for answer in output.outputs]

    def finish(self) -> list[dict[str, Any]]:
        options = self._call.body.stream_options
        if options is None or not options.include_usage:
            return []
        return [{**self._head, "choices": [], "usage": self._usage.as_json()}]

    def _chunk(self, number: int, request: Request, answer: CompletionOutput) -> dict[str, Any]:
        body, index = self._call.body, number * request.params.n + answer.index
        first = index not in self._logprobs
        if first:
            asked = 0 if body.logprobs is None else body.logprobs
            self._logprobs[index] = CompletionLogprobs(names_of(self._call, self._door), asked)
        self._usage.completion_tokens += len(answer.token_ids)
        logprobs = None
        if answer.logprobs is not None:
            logprobs = self._logprobs[index].of(answer.token_ids, answer.logprobs)
        choice: dict[str, Any] = {
            "index": index,
            "text": (prompt_text(request, self._door) if first and body.echo else "") + answer.text,
            "logprobs": logprobs,
            "finish_reason": answer.finish_reason,
            "stop_reason": answer.stop_reason,
        }
        if body.return_token_ids:
            choice["token_ids"] = list(answer.token_ids)
            if first:
                choice["prompt_token_ids"] = list(request.prompt_token_ids)
        return with_usage({**self._head, "choices": [choice]}, body, self._usage)


def prompt_text(request: Request, door: Door) -> str:
    """What `echo` shows: the text as it was sent, or that of the token ids."""
    if request.prompt is not None:
        return request.prompt
    return "" if door.tokenizer is None else door.tokenizer.decode(request.prompt_token_ids, skip_special_tokens=False)


def names_of(call: Call[Any], door: Door) -> TokenNames:
    return TokenNames(door.tokenizer, bool(call.body.return_tokens_as_token_ids))


def with_usage(chunk: dict[str, Any], body: SamplingBody, usage: Usage) -> dict[str, Any]:
    """The chunk with the tokens counted so far, or with null for them where they come at the end only."""
    options = body.stream_options
    if options is not None and options.continuous_usage_stats:
        chunk["usage"] = usage.as_json()
    elif options is not None and options.include_usage:
        chunk["usage"] = None
    return chunk


def _head(envelope: Envelope) -> dict[str, Any]:
    return {"id": envelope.id, "object": "text_completion", "created": envelope.created, "model": envelope.model,
            "system_fingerprint": None}  # fmt: skip
