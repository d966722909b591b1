"""Tool calls as text, in the form that Hermes and Qwen models write: a grammar that forces it, a parser that reads it back.

<tool_call>{"name": "...", "arguments": {...}}</tool_call>
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from orca_jax.core import checks
from orca_jax.core.errors import RequestError, nearest
from orca_jax.core.structured_outputs import MAX_SOURCE, StructuredOutputsParams, schema_text

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MAX_TOOLS = 128
NAME_FORM = re.compile(r"[a-zA-Z0-9_-]{1,64}")
COMPACT = {"x-guidance": {"whitespace_flexible": False}}

Choice = Literal["auto", "required"]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `parameters` is a JSON schema for an object; None takes no arguments."""

    name: str
    parameters: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call; `arguments` is the text of a JSON object."""

    name: str
    arguments: str


def tool_grammar(
    tools: Sequence[Tool], choice: Choice | Tool = "auto", *, parallel: bool = True
) -> StructuredOutputsParams:
    """What holds an answer to these tools. Raises RequestError for `tools` or `tool_choice`.

    "auto" is free text that calls may end; "required" is one call or, if `parallel`, several; a tool is one call of it.
    """
    schemas = _checked(tools)
    if isinstance(choice, Tool):
        if choice.name not in schemas:
            hint = nearest(choice.name, schemas)
            raise RequestError(
                f"tool_choice names {choice.name!r:.80}, which is none of the tools{hint}.", "tool_choice"
            )
        schemas, parallel = {choice.name: schemas[choice.name]}, False
    elif choice not in ("auto", "required"):
        raise RequestError(f"tool_choice must be auto, required or a tool, got {checks.shown(choice)}.", "tool_choice")
    lines = ['more: SPACE "' + OPEN + '" call', "SPACE: /[ \\n]?/", f'call: SPACE body SPACE "{CLOSE}"']
    more = " more*" if parallel else ""
    if choice == "auto":
        # The first call's opening is what free text cannot hold, and ends it wherever it comes.
        lines = [f"start: TEXT | opening call{more}", f'opening[lazy]: TEXT "{OPEN}"',
                 f"TEXT: /(.|\\n)*/ & ~/(.|\\n)*{OPEN}(.|\\n)*/", *lines]  # fmt: skip
    else:
        lines = [f'start: "{OPEN}" call{more}', *lines]
    lines.append("body: " + " | ".join(f"body{i}" for i in range(len(schemas))))
    for i, (name, schema) in enumerate(schemas.items()):
        opening = json.dumps(f'{{"name": "{name}", "arguments": ')
        lines.append(f'body{i}: {opening} %json {schema} "}}"')
    grammar = "\n".join(lines)
    if len(grammar) > MAX_SOURCE:
        raise RequestError(f"tools take {len(grammar)} characters together; at most {MAX_SOURCE} are allowed.", "tools")
    return StructuredOutputsParams(grammar=grammar)


def parse_tool_calls(text: str) -> tuple[str, list[ToolCall]]:
    """The text outside of calls, and the calls. What only looks like a call, or was cut off, stays in the text."""
    content: list[str] = []
    calls: list[ToolCall] = []
    position = 0
    while (start := text.find(OPEN, position)) >= 0:
        found = call_at(text, start + len(OPEN))
        end = start + len(OPEN) if found is None else found[1]
        content.append(text[position : end if found is None else start])
        if found is not None:
            calls.append(found[0])
        position = end
    content.append(text[position:])
    rest = "".join(content)
    return (rest.strip() if calls else rest), calls


def call_at(text: str, position: int) -> tuple[ToolCall, int] | None:
    """The call whose JSON begins at `position` or after spaces, and where it ends with its closing mark."""
    begin = position + len(text[position:]) - len(text[position:].lstrip())
    try:
        value, end = json.JSONDecoder().raw_decode(text, begin)
    except (ValueError, RecursionError):
        return None
    closing = re.compile(r"\s*" + re.escape(CLOSE)).match(text, end)
    if closing is None or not isinstance(value, dict):
        return None
    name, arguments = value.get("name"), value.get("arguments", {})
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    return ToolCall(name, json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))), closing.end()


def _checked(tools: Sequence[Tool]) -> dict[str, str]:
    """Name to the text of a schema for its arguments, which is an object's."""
    if not tools:
        raise RequestError("tools must name at least one tool.", "tools")
    if len(tools) > MAX_TOOLS:
        raise RequestError(f"tools has {len(tools)} entries; at most {MAX_TOOLS} are allowed.", "tools")
    schemas: dict[str, str] = {}
    for tool in tools:
        if not isinstance(tool.name, str) or NAME_FORM.fullmatch(tool.name) is None:
            raise RequestError(
                f"the name of a tool must be 1 to 64 letters, digits, _ or -, got {checks.shown(tool.name)}.", "tools"
            )
        if tool.name in schemas:
            raise RequestError(f"tools has {tool.name!r} twice.", "tools")
        schemas[tool.name] = _arguments(tool)
    return schemas


def _arguments(tool: Tool) -> str:
    if tool.parameters is None:
        return json.dumps({"type": "object", "properties": {}, "additionalProperties": False, **COMPACT})
    try:
        schema: dict[str, Any] = json.loads(schema_text(tool.parameters))
    except RequestError as error:
        raise RequestError(f"parameters of tool {tool.name!r}: {error}", "tools") from error
    if schema.setdefault("type", "object") != "object":
        kind = checks.shown(schema["type"])
        raise RequestError(f"parameters of tool {tool.name!r} must describe an object, got type {kind}.", "tools")
    return json.dumps({**schema, **COMPACT})
