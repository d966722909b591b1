"""The form that a body asks its answer to have: OpenAI's `response_format`, or vLLM's `structured_outputs`."""

from collections.abc import Mapping
from typing import Any

from orca_jax.core import checks
from orca_jax.core.errors import RequestError
from orca_jax.core.naming import check_names
from orca_jax.core.structured_outputs import StructuredOutputsParams

NAME = "response_format"
TYPES = ("text", "json_object", "json_schema")
SCHEMA_KEYS = ("name", "description", "schema", "strict")


def asked_form(
    response_format: Mapping[str, Any] | None, structured_outputs: Mapping[str, Any] | None
) -> StructuredOutputsParams | None:
    """None where anything goes. Raises RequestError naming the field."""
    given = None if response_format is None else _of_response_format(response_format)
    if structured_outputs is None:
        return given
    if given is not None:
        raise RequestError("response_format and structured_outputs are both given: keep one.", "structured_outputs")
    return StructuredOutputsParams.of(structured_outputs)


def _of_response_format(value: Mapping[str, Any]) -> StructuredOutputsParams | None:
    kind = value.get("type")
    if kind not in TYPES:
        raise RequestError(f"response_format.type must be one of {', '.join(TYPES)}, got {checks.shown(kind)}.", NAME)
    known = ("type", "json_schema") if kind == "json_schema" else ("type",)
    check_names(NAME, map(str, value), known, {}, lambda message, _: RequestError(message, NAME))
    if kind == "text":
        return None
    if kind == "json_object":
        return StructuredOutputsParams(json_object=True)
    described = value.get("json_schema")
    if described is None:
        raise RequestError(
            "When response_format type is 'json_schema', the 'json_schema' field must be provided.", NAME
        )
    if not isinstance(described, Mapping):
        raise RequestError(f"response_format.json_schema must be an object, got {checks.shown(described)}.", NAME)
    check_names(
        f"{NAME}.json_schema", map(str, described), SCHEMA_KEYS, {}, lambda message, _: RequestError(message, NAME)
    )
    schema = described.get("schema")
    if not isinstance(schema, Mapping):
        raise RequestError(f"response_format.json_schema.schema must be an object, got {checks.shown(schema)}.", NAME)
    return StructuredOutputsParams(json=schema)
