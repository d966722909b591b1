"""The shapes of what is sent back, for the OpenAPI document and for tests that hold the answers to it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Shape(BaseModel):
    """Documentation only: answers are built as plain data, which is what a server's hot path can afford."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class ErrorDetail(Shape):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(Shape):
    error: ErrorDetail


class UsageShape(Shape):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionLogprobsShape(Shape):
    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class PromptLogprob(Shape):
    logprob: float
    rank: int | None
    decoded_token: str | None


PromptLogprobs = list[dict[str, PromptLogprob] | None]
FinishReason = Literal["stop", "length", "tool_calls"]


class CompletionChoice(Shape):
    index: int
    text: str
    logprobs: CompletionLogprobsShape | None
    finish_reason: FinishReason
    stop_reason: str | int | None
    prompt_logprobs: PromptLogprobs | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class CompletionAnswer(Shape):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: None
    choices: list[CompletionChoice]
    usage: UsageShape


class TokenShape(Shape):
    token: str
    logprob: float
    bytes: list[int]


class ChatToken(TokenShape):
    top_logprobs: list[TokenShape]


class ChatLogprobs(Shape):
    content: list[ChatToken]
    refusal: None


class FunctionShape(Shape):
    name: str
    arguments: str


class ToolCallShape(Shape):
    id: str
    type: Literal["function"]
    function: FunctionShape


class ChatMessage(Shape):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[ToolCallShape] | None = None


class ChatChoice(Shape):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    stop_reason: str | int | None
    token_ids: list[int] | None = None


class ChatAnswer(Shape):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: None
    choices: list[ChatChoice]
    usage: UsageShape
    prompt_logprobs: PromptLogprobs | None = None
    prompt_token_ids: list[int] | None = None


class ModelShape(Shape):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int


class ModelsAnswer(Shape):
    object: Literal["list"]
    data: list[ModelShape]


class TokenizeAnswer(Shape):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeAnswer(Shape):
    prompt: str


class VersionAnswer(Shape):
    version: str


class HealthAnswer(Shape):
    status: Literal["ok"]


class FileShape(Shape):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"]


class FilesAnswer(Shape):
    object: Literal["list"]
    data: list[FileShape]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(Shape):
    id: str
    object: Literal["file"]
    deleted: Literal[True]


class BatchProblem(Shape):
    code: str
    message: str
    param: str | None
    line: int | None


class BatchProblems(Shape):
    object: Literal["list"]
    data: list[BatchProblem]


class BatchCounts(Shape):
    total: int
    completed: int
    failed: int


class BatchShape(Shape):
    id: str
    object: Literal["batch"]
    endpoint: str
    errors: BatchProblems | None
    input_file_id: str
    completion_window: str
    status: Literal[
        "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
    ]
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    expires_at: int
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: BatchCounts
    metadata: dict[str, str] | None


class BatchesAnswer(Shape):
    object: Literal["list"]
    data: list[BatchShape]
    first_id: str | None
    last_id: str | None
    has_more: bool
