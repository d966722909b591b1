"""What is served, and its tokens."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field

from orca_jax.core import checks
from orca_jax.core.errors import RequestError
from orca_jax.core.unsupported import Neutral
from orca_jax.protocol.answers import DetokenizeAnswer, ModelsAnswer, ModelShape, TokenizeAnswer, VersionAnswer
from orca_jax.protocol.body import Body
from orca_jax.protocol.body import read_body as read_fields
from orca_jax.protocol.errors import no_such_model
from orca_jax.protocol.json_text import compact_fields, read_json
from orca_jax.server.documents import responses, takes
from orca_jax.server.http import JsonAnswer, read_body
from orca_jax.server.service import Service
from orca_jax.text.chat import render
from orca_jax.text.tokenizer import Tokenizer
from orca_jax.version import __version__

MOST_TOKENS = 2**20
BODY_ERRORS = (400, 401, 404, 408, 413, 415, 429, 500)
NOTHING: Neutral = {}


class TokenizeBody(Body):
    """Either text or a conversation."""

    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = Field(default=None, description="default: for text, not for a conversation")
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    return_token_strs: bool = False


class DetokenizeBody(Body):
    """Token ids."""

    model: str | None = None
    tokens: list[int]


def routes(service: Service) -> APIRouter:
    router = APIRouter(tags=["model"])

    @router.get("/v1/models", responses=responses(ModelsAnswer, errors=(401,)))
    async def models() -> JsonAnswer:
        """The one model that is served."""
        return JsonAnswer({"object": "list", "data": [_model(service)]})

    @router.get("/v1/models/{name:path}", responses=responses(ModelShape, errors=(401, 404)))
    async def model(name: str) -> JsonAnswer:
        """The model of this name."""
        if name != service.model:
            raise no_such_model(name, service.model)
        return JsonAnswer(_model(service))

    @router.get("/version", responses=responses(VersionAnswer, errors=(401,)))
    async def version() -> JsonAnswer:
        """The server's version."""
        return JsonAnswer({"version": __version__})

    @router.post(
        "/tokenize", openapi_extra=takes(TokenizeBody), responses=responses(TokenizeAnswer, errors=BODY_ERRORS)
    )
    async def tokenize(request: Request) -> JsonAnswer:
        """The tokens of a text, or of a conversation as the model would see it."""
        return await _beside(service, _tokenize, request)

    @router.post(
        "/detokenize", openapi_extra=takes(DetokenizeBody), responses=responses(DetokenizeAnswer, errors=BODY_ERRORS)
    )
    async def detokenize(request: Request) -> JsonAnswer:
        """The text of tokens."""
        return await _beside(service, _detokenize, request)

    return router


async def _beside(service: Service, function: Callable[[Service, bytes], Any], request: Request) -> JsonAnswer:
    """`function` of the body, in the crew for tokens."""
    async with service.in_flight():
        return JsonAnswer(await service.crews.tokens.do(function, service, await read_body(request, service.config)))


def _model(service: Service) -> dict[str, Any]:
    return {
        "id": service.model, "object": "model", "created": service.started, "owned_by": "orca_jax",
        "max_model_len": service.door.max_model_len,
    }  # fmt: skip


def _tokenize(service: Service, data: bytes) -> bytes:
    body = read_fields(TokenizeBody, read_json(data), NOTHING, "/tokenize")
    _check_model(service, body.model)
    tokenizer = _tokenizer(service)
    if (body.prompt is None) == (body.messages is None):
        raise RequestError("/tokenize needs either prompt or messages.", "prompt")
    if body.messages is None:
        text, special = body.prompt or "", body.add_special_tokens is not False
    else:
        text = render(
            tokenizer, body.messages, add_generation_prompt=body.add_generation_prompt,
            continue_final_message=body.continue_final_message,
        )  # fmt: skip
        special = body.add_special_tokens is True
    tokens = tokenizer.encode(text, special)
    strings = tokenizer.token_texts(tokens) if body.return_token_strs else None
    return compact_fields(
        {"count": len(tokens), "max_model_len": service.door.max_model_len, "tokens": tokens, "token_strs": strings}
    )


def _detokenize(service: Service, data: bytes) -> dict[str, Any]:
    body = read_fields(DetokenizeBody, read_json(data), NOTHING, "/detokenize")
    _check_model(service, body.model)
    tokenizer = _tokenizer(service)
    if len(body.tokens) > MOST_TOKENS:
        raise RequestError(f"tokens must have at most {MOST_TOKENS} entries, got {len(body.tokens)}.", "tokens")
    checks.in_vocabulary("tokens", body.tokens, service.door.vocab_size)
    return {"prompt": tokenizer.decode(body.tokens, skip_special_tokens=False)}


def _check_model(service: Service, name: str | None) -> None:
    if name is not None:
        service.check_model(name)


def _tokenizer(service: Service) -> Tokenizer:
    if service.tokenizer is None:
        raise RequestError("This engine has no tokenizer (skip_tokenizer_init).")
    return service.tokenizer
