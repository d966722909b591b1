"""The OpenAPI document: bodies are read by our own hand, so FastAPI has to be told of them."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from orca_jax.protocol.answers import ErrorAnswer
from orca_jax.version import __version__

REFERENCE = "#/components/schemas/{model}"
EVENT = {
    "type": "object",
    "description": "one server-sent event: a chunk or an error as JSON, and [DONE] in the end",
    "required": ["data"],
    "properties": {"data": {"type": "string"}},
}
ERRORS = {
    400: "a bad request; `param` names the field",
    401: "no key, or a wrong one",
    403: "a page of another site asks, or under a name that is not this server's",
    404: "no such model",
    408: "the body came too slowly",
    409: "something else has to happen first",
    413: "the body is too large",
    415: "the body is not application/json",
    429: "too many wait already; see Retry-After",
    500: "the server's own failure",
    501: "this server was started without it",
    503: "shutting down, or the engine is gone; see Retry-After",
    504: "the request took too long",
    507: "there is no room to store it",
}
GENERATION_ERRORS = (400, 401, 404, 408, 413, 415, 429, 500, 503, 504)


def takes(kind: type[BaseModel]) -> dict[str, Any]:
    """For a route's `openapi_extra`: the JSON body it needs."""
    schema = kind.model_json_schema(ref_template=REFERENCE)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def uploads() -> dict[str, Any]:
    """For a route's `openapi_extra`: a form with a file."""
    fields = {"file": {"type": "string", "format": "binary"}, "purpose": {"enum": ["batch"]}}
    schema = {"type": "object", "required": ["file", "purpose"], "properties": fields}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def query(*names: str) -> dict[str, Any]:
    """For a route's `openapi_extra`: optional texts in the query."""
    return {
        "parameters": [{"name": name, "in": "query", "required": False, "schema": {"type": "string"}} for name in names]
    }


def responses(
    kind: type[BaseModel] | None, streams: bool = False, errors: tuple[int, ...] = GENERATION_ERRORS
) -> dict[int | str, Any]:
    """For a route's `responses`: its answer (None is a file), the stream it may be instead, and its errors."""
    found: dict[int | str, Any] = {200: {"model": kind} if kind is not None else {"content": {"application/jsonl": {}}}}
    if streams:
        found[200] = {"model": kind, "content": {"text/event-stream": {"schema": EVENT}}}
    for status in sorted({*errors, 403}):  # the guard of sites stands before all routes
        found[status] = {"model": ErrorAnswer, "description": ERRORS[status]}
    return found


def document(app: FastAPI) -> dict[str, Any]:
    """The whole document, with the schemas inside of bodies where their references look for them."""
    found = get_openapi(title=app.title, version=__version__, description=app.description, routes=app.routes)
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    for path in found["paths"].values():
        for operation in path.values():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            schemas |= content.get("schema", {}).pop("$defs", {})
    return found
