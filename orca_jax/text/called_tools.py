"""An assistant's earlier calls of tools, as clients send them back and as chat templates want them."""

import json
from collections.abc import Mapping
from typing import Any

from orca_jax.core import checks
from orca_jax.core.errors import RequestError
from orca_jax.core.naming import check_names

MAX_CALLS = 128


def called_tools(where: str, calls: object) -> list[dict[str, Any]]:
    """Plain copies with their arguments read: clients send a JSON text, templates write JSON themselves."""
    items = checks.listed(where, calls, MAX_CALLS)
    return [_call(f"{where}[{number}]", call) for number, call in enumerate(items)]


def _call(where: str, call: object) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        raise RequestError(
            f"{where} must be an object with id, type and function, got {checks.shown(call)}.", "messages"
        )
    check_names(where, map(str, call), ("id", "type", "function", "index"), {})
    check_names(f"{where}.function", map(str, function), ("name", "arguments"), {})
    if call.get("type", "function") != "function":
        raise RequestError(f"{where}.type must be 'function', got {checks.shown(call['type'])}.", "messages")
    return {
        "id": checks.text(f"{where}.id", call.get("id", "")),
        "type": "function",
        "function": {
            "name": checks.text(f"{where}.function.name", function.get("name")),
            "arguments": _arguments(f"{where}.function.arguments", function.get("arguments")),
        },
    }


def _arguments(where: str, text: object) -> dict[str, Any]:
    try:
        found = json.loads(checks.text(where, text or "{}"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"{where} must be a JSON object as text: {error}", "messages") from error
    if not isinstance(found, dict):
        raise RequestError(f"{where} must be a JSON object as text, got {checks.shown(found)}.", "messages")
    return found
