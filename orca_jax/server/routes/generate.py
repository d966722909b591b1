"""The paths that make text."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from orca_jax.protocol.answers import ChatAnswer, CompletionAnswer
from orca_jax.protocol.chat import ChatBody, ChatCall
from orca_jax.protocol.completions import CompletionBody, CompletionCall
from orca_jax.server.documents import responses, takes
from orca_jax.server.service import Service
from orca_jax.server.serving import serve_call


def routes(service: Service) -> APIRouter:
    router = APIRouter(tags=["generation"])

    @router.post(CompletionCall.url, openapi_extra=takes(CompletionBody), responses=responses(CompletionAnswer, True))
    async def completions(request: Request) -> Response:
        """Continue prompts."""
        return await serve_call(service, request, CompletionCall.url)

    @router.post(ChatCall.url, openapi_extra=takes(ChatBody), responses=responses(ChatAnswer, True))
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation."""
        return await serve_call(service, request, ChatCall.url)

    return router
