"""The form that an answer must have: a JSON schema, a regular expression, one of some texts, or a grammar.

Here stands what was asked, with bounds on its size alone. Whether a tokenizer can be held to it is for the door to say.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from orca_jax.core import checks
from orca_jax.core.errors import RequestError
from orca_jax.core.naming import check_names

NAME = "structured_outputs"
MAX_SOURCE = 2**16
MAX_CHOICES = 1024
MAX_CHOICE = 1024
MAX_NESTING = 64

UNSUPPORTED = {
    "structural_tag": "write it as a grammar",
    "disable_any_whitespace": "JSON never has whitespace between its tokens here",
    "disable_additional_properties": 'write "additionalProperties": false in the schema',
    "whitespace_pattern": "JSON never has whitespace between its tokens here",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredOutputsParams:
    """Exactly one of the five must be given; every violation is a `RequestError` for `structured_outputs`.

    json: a JSON schema as a dict or as text, kept as text. regex: what the whole answer must match, in the syntax of
    Rust's `regex`. choice: the answer is one of these texts. grammar: Lark, as llguidance reads it, that begins with
    the rule `start`. json_object: any JSON object. JSON is written without whitespace between its tokens.
    Texts have at most 65536 characters, JSON at most 64 levels, and there are at most 1024 choices of as many
    characters.
    """

    json: str | Mapping[str, Any] | None = None
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    source: str = field(init=False, default="", repr=False)
    """The one that was given, as text."""

    def __post_init__(self) -> None:
        if self.json_object is not None and not isinstance(self.json_object, bool):
            raise RequestError(f"{NAME}.json_object must be True or False, got {checks.shown(self.json_object)}.", NAME)
        given = [name for name in MEMBERS if getattr(self, name) is not None and getattr(self, name) is not False]
        if len(given) != 1:
            what = ", ".join(given) or "none"
            raise RequestError(f"{NAME} must have exactly one of {', '.join(MEMBERS)}, got {what}.", NAME)
        if self.json is not None:
            object.__setattr__(self, "json", schema_text(self.json))
        elif self.choice is not None:
            object.__setattr__(self, "choice", _choices(self.choice))
        elif not self.json_object:
            _bounded_text(f"{NAME}.{given[0]}", self.regex if self.grammar is None else self.grammar)
        kept = getattr(self, given[0])
        object.__setattr__(self, "source", kept if isinstance(kept, str) else json.dumps(kept))

    @property
    def kind(self) -> str:
        """Which of the five was given."""
        return next(name for name in MEMBERS if getattr(self, name))

    @classmethod
    def of(cls, value: object) -> "StructuredOutputsParams":
        """`value` itself, or the object that a mapping with the same names describes."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise RequestError(f"{NAME} must be StructuredOutputsParams or a dict, got {checks.shown(value)}.", NAME)
        asked = {str(name): item for name, item in value.items() if item is not None}
        check_names(NAME, asked, MEMBERS, UNSUPPORTED, lambda message, _: RequestError(message, NAME))
        return cls(**asked)


MEMBERS = tuple(spec.name for spec in fields(StructuredOutputsParams) if spec.init)


def schema_text(schema: object) -> str:
    """A JSON schema as text. Refuses what is no JSON object, too long or too deep, without ever descending far."""
    name = f"{NAME}.json"
    if isinstance(schema, str):
        parsed = _parsed(name, _bounded_text(name, schema))
    else:
        parsed = schema
    if not isinstance(parsed, Mapping):
        raise RequestError(f"{name} must be a JSON schema, which is an object, got {checks.shown(parsed)}.", NAME)
    _check_size(name, parsed)
    try:
        text = json.dumps(parsed, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise RequestError(f"{name} cannot be written as JSON: {str(error)[:100]}.", NAME) from error
    return _bounded_text(name, text)


def _parsed(name: str, text: str) -> object:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise RequestError(f"{name} is nested more than {MAX_NESTING} levels deep.", NAME) from error
    except ValueError as error:
        raise RequestError(f"{name} is not valid JSON: {str(error)[:100]}.", NAME) from error


def _check_size(name: str, value: object) -> None:
    """Level by level, so that neither depth, nor a cycle, nor sheer size costs more than the bounds allow."""
    level, count = [value], 0
    for _ in range(MAX_NESTING + 1):
        below: list[object] = []
        for item in level:
            children = item.values() if isinstance(item, Mapping) else item if isinstance(item, list | tuple) else ()
            count += len(children)
            if count > MAX_SOURCE:
                raise RequestError(f"{name} has more than {MAX_SOURCE} parts; give a smaller schema.", NAME)
            below += (child for child in children if isinstance(child, Mapping | list | tuple))
        level = below
        if not level:
            return
    raise RequestError(f"{name} is nested more than {MAX_NESTING} levels deep.", NAME)


def _bounded_text(name: str, value: object) -> str:
    try:
        text = checks.text(name, value)
    except RequestError as error:
        raise RequestError(str(error), NAME) from error
    if not text:
        raise RequestError(f"{name} is empty.", NAME)
    if len(text) > MAX_SOURCE:
        raise RequestError(f"{name} has {len(text)} characters; at most {MAX_SOURCE} are allowed.", NAME)
    return text


def _choices(value: object) -> tuple[str, ...]:
    name = f"{NAME}.choice"
    try:
        if isinstance(value, str):
            raise RequestError(f"{name} must be a list of strings, got {checks.shown(value)}.")
        choices = checks.strings(name, value, MAX_CHOICES, MAX_CHOICE)
    except RequestError as error:
        raise RequestError(str(error), NAME) from error
    if not choices:
        raise RequestError(f"{name} must name at least one text.", NAME)
    if sum(map(len, choices)) > MAX_SOURCE:
        raise RequestError(f"{name} has more than {MAX_SOURCE} characters in all; give fewer or shorter ones.", NAME)
    return choices
