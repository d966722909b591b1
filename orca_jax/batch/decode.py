"""What a line says: OpenAI's batch format, JSON with a prompt field, or a prompt and nothing else."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from orca_jax.batch.words import Item, LineError
from orca_jax.core.checks import shown, text
from orca_jax.core.errors import RequestError
from orca_jax.core.naming import check_names
from orca_jax.protocol.json_text import read_json

URLS = ("/v1/completions", "/v1/chat/completions")
KEYS = ("custom_id", "method", "url", "body")
MAX_CUSTOM_ID = 512  # characters

Decode = Callable[[int, Any], Item]
"""`(number, what the source holds) -> Item`; raises LineError."""


def openai_item(number: int, data: bytes) -> Item:
    """`{"custom_id": ..., "method": "POST", "url": ..., "body": {...}}`. Raises LineError naming the field."""
    line = _object(data)
    custom_id = _custom_id(line)
    try:
        check_names("a batch line", line, KEYS, {}, lambda message, name: LineError("unknown_field", message, name))
        if line.get("method", "POST") != "POST":
            raise LineError("invalid_method", f"method must be 'POST', got {shown(line['method'])}", "method")
        url, body = line.get("url"), line.get("body")
        if url is None:
            raise LineError("missing_url", f"url is missing; it is one of {', '.join(URLS)}", "url")
        if url not in URLS:
            raise LineError("unknown_url", f"url {shown(url)} is not served; {' and '.join(URLS)} are", "url")
        if not isinstance(body, dict):
            raise LineError("invalid_body", f"body must be a JSON object, got {shown(body)}", "body")
        if body.get("stream"):
            raise LineError("stream_not_supported", "stream = true has no meaning in a file; leave it out", "stream")
    except LineError as error:
        error.custom_id = custom_id
        raise
    return Item(number, custom_id, url, body)


class PromptDecoder:
    """Prompts without an envelope become requests to `url`, with `defaults` for what they do not say themselves.

    A prompt is text or a list of token ids, in JSON objects under `field` beside further fields of the request's body.
    The number is the custom id.
    """

    def __init__(self, url: str, field: str, defaults: Mapping[str, Any]):
        self.url = url
        self.field = field
        self.defaults = dict(defaults)

    def from_json(self, number: int, data: bytes) -> Item:
        line = _object(data)
        if self.field not in line:
            raise LineError("missing_prompt", f"there is no field {self.field!r} (--prompt-field)", self.field)
        prompt = line.pop(self.field)
        return self._item(number, prompt, line)

    def from_text(self, number: int, data: bytes) -> Item:
        return self._item(number, _utf8(data), {})

    def from_value(self, number: int, value: Any) -> Item:
        """A cell of a table, as plain Python."""
        return self._item(number, value, {})

    def _item(self, number: int, prompt: Any, fields: dict[str, Any]) -> Item:
        if not isinstance(prompt, str | list):
            what = f"{self.field} must be a string or a list of token ids, got {shown(prompt)}"
            raise LineError("invalid_prompt", what, self.field)
        if self.url.endswith("/chat/completions"):
            asked: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]}
        else:
            asked = {"prompt": prompt}
        return Item(number, str(number), self.url, {**self.defaults, **fields, **asked})


def looks_like(data: bytes) -> str:
    """Of a first line: "openai", "prompts" (JSON objects without an envelope) or "text"."""
    try:
        line = parse_json(data)
    except LineError:
        return "text"
    if not isinstance(line, dict):
        return "text"
    return "openai" if {"custom_id", "url", "body"} & set(line) else "prompts"


def parse_json(data: bytes) -> Any:
    """Strict JSON: NaN and the infinities are none, a name stands once in an object. Raises LineError."""
    source = _utf8(data)
    try:
        return read_json(source)
    except RequestError as error:
        cause = error.__cause__
        if isinstance(cause, json.JSONDecodeError):  # in words that do not count lines within the line
            message = f"not valid JSON: {cause.msg} at column {cause.colno}"
        else:
            message = str(error).replace("The body", "the line", 1)
        raise LineError("invalid_json", message) from error


def _utf8(data: bytes) -> str:
    try:
        return data.removesuffix(b"\r").decode()
    except UnicodeDecodeError as error:
        raise LineError("invalid_encoding", f"not UTF-8 text (byte {error.start} of the line)") from error


def _object(data: bytes) -> dict[str, Any]:
    line = parse_json(data)
    if not isinstance(line, dict):
        raise LineError("invalid_line", f"a JSON object is needed, got {shown(line)}")
    return line


def _custom_id(line: Mapping[str, Any]) -> str:
    if "custom_id" not in line:
        raise LineError("missing_custom_id", "custom_id is missing; answers are told apart by it", "custom_id")
    try:
        custom_id = text("custom_id", line["custom_id"])
    except RequestError as error:
        raise LineError("invalid_custom_id", str(error), "custom_id") from error
    if not 0 < len(custom_id) <= MAX_CUSTOM_ID:
        what = f"custom_id must have 1 to {MAX_CUSTOM_ID} characters, got {len(custom_id)}"
        raise LineError("invalid_custom_id", what, "custom_id")
    return custom_id
