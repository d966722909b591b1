"""The words of a batch: an item that is asked, what became of it, and the errors that end a line or the whole run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orca_jax.core.errors import OrcaError


class BatchError(OrcaError):
    """The run as a whole cannot start or go on; what has been written stays, and the same command resumes it."""


class LineError(OrcaError, ValueError):
    """One line that is no request. `code` is for programs, `param` names the field at fault, `custom_id` where known."""

    def __init__(self, code: str, message: str, param: str | None = None, custom_id: str | None = None):
        super().__init__(message)
        self.code = code
        self.param = param
        self.custom_id = custom_id


@dataclass(frozen=True, slots=True)
class Item:
    """One request of a batch. `number` counts the source's lines (or rows, or records) from 1, empty ones included."""

    number: int
    custom_id: str
    url: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Prepared:
    """An item that has been through the door. `work` is the answerer's own."""

    number: int
    custom_id: str
    work: Any


@dataclass(frozen=True, slots=True)
class Answered:
    """A response body, and the tokens that it cost."""

    body: Mapping[str, Any]
    prompt_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """Why there is no answer. `status` is the HTTP status that a server would give, None where nothing was asked."""

    code: str
    message: str
    param: str | None = None
    status: int | None = None
    body: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that never became a request, or one that the door refused."""

    number: int
    custom_id: str | None
    failure: Failed


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one line."""

    number: int
    custom_id: str | None
    outcome: Answered | Failed


@dataclass(slots=True)
class Counts:
    """How far a run is. `total` lines, of which `completed` are answered and `failed` are not; tokens of this run only."""

    total: int = 0
    completed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0

    def add(self, outcome: Answered | Failed) -> None:
        if isinstance(outcome, Failed):
            self.failed += 1
            return
        self.completed += 1
        self.prompt_tokens += outcome.prompt_tokens
        self.output_tokens += outcome.output_tokens
