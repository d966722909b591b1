"""The routes put together, and every exception turned into an answer."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp

from orca_jax.core.errors import OrcaError
from orca_jax.protocol.errors import ApiError, api_error
from orca_jax.server import documents
from orca_jax.server.http import error_answer
from orca_jax.server.routes import batches, generate, health, metrics, models, page
from orca_jax.server.security import KeyGuard
from orca_jax.server.service import Service
from orca_jax.server.sites import SiteGuard

ABOUT = "OpenAI's API over Orca's iteration-level scheduling, in JAX. Errors have OpenAI's shape."
MISSES = {404: "There is nothing at this path.", 405: "This path does not take this method."}


def create_app(service: Service) -> ASGIApp:
    """The ASGI application over a service."""
    app = FastAPI(title="orca_jax", description=ABOUT, docs_url=None, redoc_url=None)
    for part in (generate, batches, models, health, metrics, page):
        app.include_router(part.routes(service))
    _add_handlers(app, service)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = documents.document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    return _guarded(app, service)


def _add_handlers(app: FastAPI, service: Service) -> None:
    async def refusal(request: Request, error: Exception) -> Response:
        return error_answer(service.reported(api_error(error), error))

    async def miss(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        headers = error.headers if isinstance(error, HTTPException) else None
        answer = error_answer(ApiError(status, MISSES.get(status, str(error))))
        answer.headers.update(headers or {})  # the methods that a path does take
        return answer

    app.add_exception_handler(HTTPException, miss)
    for kind in (OrcaError, ApiError, Exception):
        app.add_exception_handler(kind, refusal)


def _guarded(app: ASGIApp, service: Service) -> ASGIApp:
    key = service.config.key
    if key is not None:
        app = KeyGuard(app, key)
    app = SiteGuard(app, service.config)
    if service.config.origins:  # outside of the guard: a browser asks for permission without the key
        app = CORSMiddleware(app, allow_origins=service.config.origins, allow_methods=["*"], allow_headers=["*"])
    return app
