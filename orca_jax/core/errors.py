"""The errors that people see: each names the thing, its value, the bound and the way out."""

import difflib
from collections.abc import Iterable


class OrcaError(Exception):
    """Base of every error this package raises on purpose; its text is fit to be shown to a user."""


class ConfigError(OrcaError, ValueError):
    """A setting that cannot be honoured."""


class RequestError(OrcaError, ValueError):
    """A request that cannot be served, refused before the engine has seen it.

    `parameter` is the name of the offending field, None where no single field is to blame.
    """

    def __init__(self, message: str, parameter: str | None = None):
        super().__init__(message)
        self.parameter = parameter


class ContextLengthError(RequestError):
    """Prompt and answer together are longer than the model's context; clients are told so by a code of its own."""


class GrammarError(OrcaError, ValueError):
    """A grammar that failed while it was followed; the request that it belongs to ends with `finish_reason="error"`."""


class CheckpointError(OrcaError, ValueError):
    """A checkpoint that is missing, damaged, unsupported or at odds with itself."""


class EngineError(OrcaError, RuntimeError):
    """The engine itself failed; the requests it held end with `finish_reason="error"`."""


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the known name closest to `name`, empty when none is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
