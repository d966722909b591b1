"""`/v1/chat/completions`: conversations to be answered."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field
from pydantic.config import JsonDict

from orca_jax.core import checks
from orca_jax.core.errors import RequestError
from orca_jax.core.outputs import CompletionOutput, RequestOutput
from orca_jax.core.request import Request
from orca_jax.core.structured_outputs import StructuredOutputsParams
from orca_jax.core.unsupported import Neutral
from orca_jax.engine.door import Door
from orca_jax.protocol.call import (
    Call,
    Envelope,
    Numbering,
    Streamer,
    prompt_usage,
    raise_error,
    truncated,
)
from orca_jax.protocol.completions import names_of, with_usage
from orca_jax.protocol.logprobs import chat_logprobs, prompt_logprobs
from orca_jax.protocol.sampling import REFUSED, Natural, Positive, SamplingBody
from orca_jax.protocol.tools import ToolStream, call_object, tool_form
from orca_jax.text.chat import ROLES, render
from orca_jax.text.tool_calls import ToolCall, parse_tool_calls

CHAT_REFUSED: Neutral = {
    **REFUSED,
    "audio": (None,),
    "echo": (None, False),
    "functions": (None,),
    "function_call": (None, "none"),
    "include_reasoning": (None, True),
    "modalities": (None, ["text"]),
}

TEXT: JsonDict = {"type": "string"}
MESSAGE: JsonDict = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {"role": {"enum": list(ROLES)}, "content": TEXT, "name": TEXT},
    "additionalProperties": False,
}
"""For the OpenAPI document; `text.chat` checks messages. A content may be a list of text parts as well."""


class ChatBody(SamplingBody):
    """The body of /v1/chat/completions. `max_completion_tokens` wins over the older `max_tokens`."""

    messages: list[dict[str, Any]] = Field(
        description="objects with role and content, oldest first", json_schema_extra={"minItems": 1, "items": MESSAGE}
    )
    max_tokens: Positive | None = Field(default=None, json_schema_extra={"deprecated": True})
    max_completion_tokens: Positive | None = None
    tools: list[dict[str, Any]] | None = Field(default=None, description="functions that the model may call")
    tool_choice: str | dict[str, Any] | None = Field(
        default=None, description="none, auto (the default), required, or one by name"
    )
    parallel_tool_calls: bool | None = True
    logprobs: bool | None = False
    top_logprobs: Natural | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    chat_template: str | None = Field(default=None, description="only where the server trusts templates of requests")
    chat_template_kwargs: dict[str, Any] | None = None


class ChatCall(Call[ChatBody]):
    """One conversation with `n` answers."""

    url: ClassVar[str] = "/v1/chat/completions"
    id_prefix: ClassVar[str] = "chatcmpl"

    @property
    def num_prompts(self) -> int:
        return 1

    @property
    def brings_template(self) -> bool:
        return self.body.chat_template is not None

    @property
    def form_field(self) -> str:
        return "tools" if self.calls_tools else super().form_field

    def make_requests(self, door: Door, numbering: Numbering) -> list[Request]:
        body = self.body
        if body.top_logprobs is not None and not body.logprobs:
            raise RequestError("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")
        if door.tokenizer is None:
            raise RequestError("This engine has no tokenizer, so it cannot chat: use /v1/completions.", "messages")
        max_tokens = body.max_tokens
        if body.max_completion_tokens is not None:
            max_tokens = checks.bounded("max_completion_tokens", body.max_completion_tokens, 1)
        params = body.sampling(
            max_tokens=max_tokens, logprobs=(body.top_logprobs or 0) if body.logprobs else None, form=self._tool_form()
        )
        prompt = render(
            door.tokenizer, body.messages, chat_template=body.chat_template,
            add_generation_prompt=body.add_generation_prompt, continue_final_message=body.continue_final_message,
            template_kwargs=body.chat_template_kwargs, tools=body.tools,
        )  # fmt: skip
        request = door.make(
            truncated(door, prompt, body.truncate_prompt_tokens, max_tokens, body.add_special_tokens),
            params,
            request_id=f"{numbering.prefix}-0",
            arrival=numbering.first,
            arrival_time=numbering.time,
            default_max_tokens=door.default_max_tokens,
            add_special_tokens=body.add_special_tokens,
        )
        return [request]

    def answer(self, requests: Sequence[Request], outputs: Sequence[RequestOutput], envelope: Envelope,
               door: Door) -> dict[str, Any]:  # fmt: skip
        (output,), usage = outputs, prompt_usage(requests)
        raise_error(output)
        usage.completion_tokens = sum(len(answer.token_ids) for answer in output.outputs)
        found = {
            **_head(envelope, "chat.completion"),
            "choices": [self._choice(answer, envelope, door) for answer in output.outputs],
            "usage": usage.as_json(),
        }
        if self.body.prompt_logprobs is not None:
            found["prompt_logprobs"] = prompt_logprobs(output.prompt_logprobs)
        if self.body.return_token_ids:
            found["prompt_token_ids"] = list(requests[0].prompt_token_ids)
        return found

    def streamer(self, requests: Sequence[Request], envelope: Envelope, door: Door) -> "ChatStreamer":
        return ChatStreamer(self, requests, envelope, door)

    def logprobs_of(self, answer: CompletionOutput, door: Door) -> dict[str, Any] | None:
        if answer.logprobs is None:
            return None
        return chat_logprobs(names_of(self, door), self.body.top_logprobs or 0, answer.token_ids, answer.logprobs)

    @property
    def has_form(self) -> bool:
        return self.calls_tools or super().has_form

    @property
    def calls_tools(self) -> bool:
        return self.body.tools is not None and self.body.tool_choice != "none"

    def finish_reason(self, answer: CompletionOutput, called: bool) -> str | None:
        """OpenAI's word for an answer that ends by calling tools, unless it had to call just this one."""
        chosen = called and not isinstance(self.body.tool_choice, dict)
        return "tool_calls" if chosen and answer.finish_reason == "stop" else answer.finish_reason

    def _tool_form(self) -> StructuredOutputsParams | None:
        body = self.body
        form = tool_form(body.tools, body.tool_choice, body.parallel_tool_calls is not False)
        other = body.structured_outputs is not None or (body.response_format or {}).get("type", "text") != "text"
        if form is not None and other:
            raise RequestError("tools and another form of the answer are both given: keep one.", "tools")
        return form

    def _choice(self, answer: CompletionOutput, envelope: Envelope, door: Door) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
        calls: list[ToolCall] = []
        if self.calls_tools:
            content, calls = parse_tool_calls(answer.text)
        if calls:
            message["content"] = content or None
            message["tool_calls"] = [
                call_object(call, call_id(envelope, answer.index, number)) for number, call in enumerate(calls)
            ]
        choice = {
            "index": answer.index,
            "message": message,
            "logprobs": self.logprobs_of(answer, door),
            "finish_reason": self.finish_reason(answer, bool(calls)),
            "stop_reason": answer.stop_reason,
        }
        if self.body.return_token_ids:
            choice["token_ids"] = list(answer.token_ids)
        return choice


class ChatStreamer(Streamer):
    """A chunk with the role for each choice, then the text as it grows."""

    def __init__(self, call: ChatCall, requests: Sequence[Request], envelope: Envelope, door: Door):
        self._call = call
        self._request = requests[0]
        self._door = door
        self._head = _head(envelope, "chat.completion.chunk")
        self._usage = prompt_usage(requests)
        self._envelope = envelope
        self._tools = {index: ToolStream() for index in range(self._request.params.n)} if call.calls_tools else {}
        self._calls: Counter[int] = Counter()

    def begin(self) -> list[dict[str, Any]]:
        delta = {"role": "assistant", "content": ""}
        return [self._chunk(_choice(index, delta)) for index in range(self._request.params.n)]

    def push(self, output: RequestOutput) -> list[dict[str, Any]]:
        raise_error(output)
        chunks = []
        for answer in output.outputs:
            self._usage.completion_tokens += len(answer.token_ids)
            delta = self._delta(answer)
            choice = _choice(answer.index, delta)
            choice |= {
                "logprobs": self._call.logprobs_of(answer, self._door),
                "finish_reason": self._call.finish_reason(answer, self._calls[answer.index] > 0),
                "stop_reason": answer.stop_reason,
            }
            if self._call.body.return_token_ids:
                choice["token_ids"] = list(answer.token_ids)
            chunks.append(self._chunk(choice))
        return chunks

    def finish(self) -> list[dict[str, Any]]:
        options = self._call.body.stream_options
        if options is None or not options.include_usage:
            return []
        return [{**self._head, "choices": [], "usage": self._usage.as_json()}]

    def _delta(self, answer: CompletionOutput) -> dict[str, Any]:
        """What is new in the answer's message."""
        if answer.index not in self._tools:
            return {"content": answer.text} if answer.text or not answer.finished() else {}
        text, calls = self._tools[answer.index].push(answer.text, answer.finished())
        delta: dict[str, Any] = {"content": text} if text else {}
        if calls:
            first = self._calls[answer.index]
            self._calls[answer.index] += len(calls)
            delta["tool_calls"] = [
                {"index": number, **call_object(call, call_id(self._envelope, answer.index, number))}
                for number, call in enumerate(calls, first)
            ]
        return delta

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        return with_usage({**self._head, "choices": [choice]}, self._call.body, self._usage)


def call_id(envelope: Envelope, index: int, number: int) -> str:
    return f"call_{envelope.id.removeprefix(ChatCall.id_prefix).strip('-')}_{index}_{number}"


def _choice(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def _head(envelope: Envelope, kind: str) -> dict[str, Any]:
    return {"id": envelope.id, "object": kind, "created": envelope.created, "model": envelope.model,
            "system_fingerprint": None}  # fmt: skip
