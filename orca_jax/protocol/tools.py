"""Tools of a chat: what the body says of them, and calls of them in the answer, whole or as it streams."""

from collections.abc import Mapping, Sequence
from typing import Any

from orca_jax.core import checks
from orca_jax.core.errors import RequestError
from orca_jax.core.naming import check_names
from orca_jax.core.structured_outputs import StructuredOutputsParams
from orca_jax.text.tool_calls import OPEN, Tool, ToolCall, call_at, tool_grammar

CHOICES = ("none", "auto", "required")


def tool_form(
    tools: Sequence[Mapping[str, Any]] | None, choice: str | Mapping[str, Any] | None, parallel: bool
) -> StructuredOutputsParams | None:
    """What holds the answer to the tools; None where none may be called. Raises RequestError naming the field."""
    if tools is None:
        if choice not in (None, "none"):
            raise RequestError("When using `tool_choice`, `tools` must be set.", "tool_choice")
        return None
    if not tools:
        raise RequestError("`tools` must not be an empty array.", "tools")
    known = [_tool(f"tools[{number}]", tool) for number, tool in enumerate(tools)]
    if isinstance(choice, Mapping):
        return tool_grammar(known, _named(choice))
    if choice not in (None, *CHOICES):
        raise RequestError(
            f"tool_choice must be one of {', '.join(CHOICES)}, or name a function, got {checks.shown(choice)}.",
            "tool_choice",
        )
    if choice == "none":
        return None
    return tool_grammar(known, "required" if choice == "required" else "auto", parallel=parallel)


def _tool(where: str, tool: Mapping[str, Any]) -> Tool:
    check_names(where, map(str, tool), ("type", "function"), {}, _blaming_tools)
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, Mapping):
        raise RequestError(
            f"{where} must have type 'function' and a function, got {checks.shown(tool.get('type'))}.", "tools"
        )
    check_names(
        f"{where}.function", map(str, function), ("name", "description", "parameters", "strict"), {}, _blaming_tools
    )
    name, parameters = function.get("name"), function.get("parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise RequestError(f"{where}.function.parameters must be an object, got {checks.shown(parameters)}.", "tools")
    if not isinstance(name, str):
        raise RequestError(f"{where}.function.name must be a string, got {checks.shown(name)}.", "tools")
    return Tool(name, parameters)


def _named(choice: Mapping[str, Any]) -> Tool:
    function = choice.get("function")
    name = function.get("name") if isinstance(function, Mapping) else None
    if choice.get("type") != "function" or not isinstance(name, str):
        raise RequestError(
            'tool_choice must be a word or {"type": "function", "function": {"name": ...}}, got '
            f"{checks.shown(dict(choice))}.",
            "tool_choice",
        )
    return Tool(name)


def _blaming_tools(message: str, name: str) -> RequestError:
    return RequestError(message, "tools")


def call_object(call: ToolCall, call_id: str) -> dict[str, Any]:
    """A call as the message has it."""
    return {"id": call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


class ToolStream:
    """Splits the text of one answer, as it grows, into what is said and what is called.

    What may become the opening of a call is held back; a call is given when it is complete. So are spaces, because those
    around calls are nobody's words; only those before the very first word are gone before a call can be seen.
    """

    def __init__(self) -> None:
        self._held = self._space = ""
        self._begun = self._called = False

    def push(self, text: str, last: bool) -> tuple[str, list[ToolCall]]:
        """Text to show and calls that are complete, of what has come so far. After `last` nothing is held."""
        self._held += text
        said: list[str] = []
        calls: list[ToolCall] = []
        while (found := self._first_call()) is not None:
            start, call, end = found
            said.append(self._held[:start])
            calls.append(call)
            self._held = self._held[end:]
        keep = 0 if last else self._undecided()
        said.append(self._held[: len(self._held) - keep])
        self._held = self._held[len(self._held) - keep :]
        self._called = self._called or bool(calls)
        return self._trimmed("".join(said), last), calls

    def _trimmed(self, said: str, last: bool) -> str:
        text = self._space + said
        if self._called and not self._begun:
            text = text.lstrip()
        words = text.rstrip() if self._called or not last else text
        self._space = text[len(words) :]
        self._begun = self._begun or bool(words)
        return words

    def _first_call(self) -> tuple[int, ToolCall, int] | None:
        """Where the first complete call that is held begins, the call, and where it ends."""
        start = self._held.find(OPEN)
        while start >= 0:
            found = call_at(self._held, start + len(OPEN))
            if found is not None:
                return start, *found
            start = self._held.find(OPEN, start + 1)
        return None

    def _undecided(self) -> int:
        """How many of the last characters may be, or become, a call."""
        start = self._held.find(OPEN)
        if start >= 0:
            return len(self._held) - start
        most = min(len(self._held), len(OPEN) - 1)
        return next((size for size in range(most, 0, -1) if OPEN.startswith(self._held[-size:])), 0)
