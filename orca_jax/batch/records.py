"""Results as the lines of OpenAI's output and error files, and what such a line says when it is read again."""

import json
import re
from collections.abc import Mapping
from typing import Any

from orca_jax.batch.words import Answered, Failed, Result

PREFIX = "batch_req_"
DUPLICATE = "duplicate_custom_id"
_ID = re.compile(r"batch_req_(?:.*_)?([1-9][0-9]*)", re.ASCII)


class Records:
    """Writes results. `name` tells the batches of one server apart; ids are `batch_req_[NAME_]NUMBER`."""

    def __init__(self, name: str = ""):
        self._name = f"{name}_" if name else ""

    def line(self, result: Result) -> bytes:
        """One line of JSON with its newline: an answer for the output file, anything else for the error file."""
        outcome = result.outcome
        response, error = (
            (self._response(200, result.number, outcome.body), None)
            if isinstance(outcome, Answered)
            else (self._refusal(result.number, outcome), _error(result.number, outcome))
        )
        record = {
            "id": f"{PREFIX}{self._name}{result.number}", "custom_id": result.custom_id, "response": response,
            "error": error,
        }  # fmt: skip
        return _json_line(record)

    def _refusal(self, number: int, failure: Failed) -> dict[str, Any] | None:
        if failure.status is None or failure.body is None:
            return None
        return self._response(failure.status, number, failure.body)

    def _response(self, status: int, number: int, body: Mapping[str, Any]) -> dict[str, Any]:
        return {"status_code": status, "request_id": f"req_{self._name}{number}", "body": body}


def _json_line(record: Mapping[str, Any]) -> bytes:
    """One line for every reader, also for one that takes U+2028 or U+0085 for the end of a line."""
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    for character in ("\x85", "\u2028", "\u2029"):
        text = text.replace(character, f"\\u{ord(character):04x}")
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:  # a refusal echoes half of a surrogate pair
        return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def _error(number: int, failure: Failed) -> dict[str, Any]:
    return {"code": failure.code, "message": failure.message, "param": failure.param, "line": number}


def number_of(record: Mapping[str, Any]) -> int | None:
    """The source's line that a record answers; None where it is no record of ours."""
    found = _ID.fullmatch(record["id"]) if isinstance(record.get("id"), str) else None
    return int(found[1]) if found else None


def code_of(record: Mapping[str, Any]) -> str | None:
    """The error's code, None for an answer."""
    error = record.get("error")
    return error.get("code") if isinstance(error, Mapping) else None
