"""What both kinds of calls have in common: a body, the requests it stands for, and the answer made of their outputs."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from orca_jax.core.errors import EngineError, RequestError
from orca_jax.core.outputs import RequestOutput
from orca_jax.core.request import Request
from orca_jax.engine.door import Door
from orca_jax.protocol.sampling import SamplingBody

B = TypeVar("B", bound=SamplingBody)
MOST_SCORED = 2**20  # log-probabilities of prompt tokens in one answer: some 70 MB of JSON


@dataclass(frozen=True, slots=True)
class Numbering:
    """How the requests of a call are told apart: `prefix-0`, `prefix-1`, ..., with arrival numbers from `first` on.

    A request without a seed derives one from the engine's seed and its arrival number. `time` is the engine's clock.
    """

    prefix: str
    first: int
    time: float


@dataclass(frozen=True, slots=True)
class Envelope:
    """What an answer says about itself. `created` is in seconds since 1970."""

    id: str
    created: int
    model: str


@dataclass(frozen=True)
class Call(ABC, Generic[B]):
    """A validated body. Immutable; making requests may take long (it tokenises) and may run in any thread."""

    body: B
    url: ClassVar[str]
    id_prefix: ClassVar[str]

    @property
    def stream(self) -> bool:
        return bool(self.body.stream)

    @property
    def model(self) -> str | None:
        return self.body.model

    @property
    def brings_template(self) -> bool:
        """Whether it carries a chat template of its own: code, if sandboxed, so a server may not want it."""
        return False

    @property
    @abstractmethod
    def num_prompts(self) -> int: ...

    @property
    def has_form(self) -> bool:
        """Whether its answers are held to a form, whose grammar may take long to compile."""
        other = (self.body.response_format or {}).get("type", "text") != "text"
        return other or self.body.structured_outputs is not None

    @property
    def form_field(self) -> str:
        """The field that asks for the answer's form."""
        return "structured_outputs" if self.body.response_format is None else "response_format"

    def requests(self, door: Door, numbering: Numbering) -> list[Request]:
        """One request for each prompt, in order. Raises RequestError."""
        try:
            requests = self.make_requests(door, numbering)
        except RequestError as error:
            named = self.by_its_names(error)
            if named is error:
                raise
            raise named from error
        self._check_size(requests)
        return requests

    def _check_size(self, requests: Sequence[Request]) -> None:
        """Refuse what would be answered with more than any client reads; what is made has the engine's bounds."""
        entries = sum(map(scored_entries, requests))
        if entries > MOST_SCORED:
            asked = "prompt_logprobs" if self.body.prompt_logprobs is not None else "logprobs"
            raise RequestError(
                f"{asked} asks for {entries} log-probabilities of prompt tokens, and at most {MOST_SCORED} are given "
                "(send fewer or shorter prompts at once, or ask for fewer).", asked,
            )  # fmt: skip

    def by_its_names(self, error: RequestError) -> RequestError:
        """The error with the body's name for its field: the engine has one for all that holds an answer to a form."""
        if error.parameter != "structured_outputs":
            return error
        return type(error)(str(error).replace("structured_outputs ", f"{self.form_field} "), self.form_field)

    @abstractmethod
    def make_requests(self, door: Door, numbering: Numbering) -> list[Request]:
        """What `requests` gives, by the engine's names."""

    @abstractmethod
    def answer(
        self, requests: Sequence[Request], outputs: Sequence[RequestOutput], envelope: Envelope, door: Door
    ) -> dict[str, Any]:
        """The body of the answer, from the last output of each request in the same order.

        Raises EngineError where the engine has ended one of them with an error, RequestError where that is its own.
        """

    @abstractmethod
    def streamer(self, requests: Sequence[Request], envelope: Envelope, door: Door) -> "Streamer":
        """Makes the chunks of a stream out of outputs as they come."""


class Streamer(ABC):
    """Turns the outputs of one call into chunks. Not thread-safe."""

    @abstractmethod
    def begin(self) -> list[dict[str, Any]]:
        """What is sent before the first token."""

    @abstractmethod
    def push(self, output: RequestOutput) -> list[dict[str, Any]]:
        """Chunks for what is new. Raises EngineError where the engine has ended the request with an error."""

    @abstractmethod
    def finish(self) -> list[dict[str, Any]]:
        """What is sent after the last token: usage, where it was asked for."""


@dataclass(slots=True)
class Usage:
    """Counts tokens: a prompt once, however many answers it has."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


def prompt_usage(requests: Sequence[Request]) -> Usage:
    return Usage(prompt_tokens=sum(len(request.prompt_token_ids) for request in requests))


def scored_entries(request: Request) -> int:
    """How many log-probabilities of prompt tokens its answer has: each of `n` choices repeats them."""
    asked = request.params.prompt_logprobs
    return 0 if asked is None else request.params.n * len(request.prompt_token_ids) * (1 + asked)


def raise_error(output: RequestOutput) -> None:
    """Where the engine ended the request with "error": RequestError if the request is to blame, EngineError if not."""
    if any(answer.finish_reason == "error" for answer in output.outputs):
        if output.error_parameter is not None:
            raise RequestError(output.error or "the request contradicts itself", output.error_parameter)
        raise EngineError(output.error or "the request ended with an error")


def truncated(door: Door, prompt: Any, most: int | None, max_tokens: int | None, special: bool) -> Any:
    """`prompt`, or the token ids of its end where `truncate_prompt_tokens` asks for that."""
    if most is None:
        return prompt
    if most != -1 and most < 1:
        raise RequestError(f"truncate_prompt_tokens must be -1 or at least 1, got {most}.", "truncate_prompt_tokens")
    if most == -1:
        most = max(1, door.max_model_len - (max_tokens or 1))
    if most >= door.max_model_len:
        raise RequestError(
            f"truncate_prompt_tokens must be below the model's context of {door.max_model_len} tokens, got {most}.",
            "truncate_prompt_tokens",
        )
    return {"prompt_token_ids": door.last_tokens(prompt, most, special)}
