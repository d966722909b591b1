"""A chat template, compiled once and rendered as often as needed, always within bounds."""

from collections.abc import Callable, Mapping
from datetime import datetime
from types import CodeType
from typing import Any

from jinja2 import Template, TemplateError

from orca_jax.core.errors import RequestError
from orca_jax.text.sandbox import MAX_TEXT, BoundedEnvironment, Metered, TooMuchWork

MAX_SOURCE = 2**20


class ChatTemplate:
    """Jinja source ready to render, the way transformers does it. Threads may share it."""

    def __init__(self, source: str, now: Callable[[], datetime] = datetime.now):
        if len(source) > MAX_SOURCE:
            raise RequestError(
                f"the chat template has {len(source)} characters; at most {MAX_SOURCE} are accepted.", "chat_template"
            )
        self.source = source
        self._now = now
        self._code = self._compiled(source)

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text the template makes of `variables`; RequestError for whatever goes wrong in it."""
        environment = BoundedEnvironment(self._now)
        template = Template.from_code(environment, self._code, environment.make_globals(None))
        pieces, size = [], 0
        try:
            for piece in template.generate(variables):
                size += len(piece)
                if size > MAX_TEXT:
                    raise TooMuchWork(f"it writes more than {MAX_TEXT} characters")
                pieces.append(piece)
        except TemplateError as error:
            raise RequestError(f"the chat template refuses: {_line(error)}", "messages") from error
        except Exception as error:  # a template is foreign code: whatever it raises is its own failure
            raise RequestError(f"the chat template fails: {_line(error)}", "chat_template") from error
        return "".join(pieces)

    def _compiled(self, source: str) -> CodeType:
        environment = BoundedEnvironment(self._now)
        try:
            return environment.compile(Metered().visit(environment.parse(source)))
        except Exception as error:  # syntax errors, and the limits of Python's own compiler
            raise RequestError(f"the chat template cannot be compiled: {_line(error)}", "chat_template") from error


def _line(error: Exception) -> str:
    """The error in one short line; a message of the template's own comes without its type."""
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, TemplateError) else f"{type(error).__name__}: {text}"
