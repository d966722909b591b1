"""The live page: its files at `/` and `/page/`, its news at `/live`. Nothing of it comes from another host."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response

from orca_jax.core.checks import shown
from orca_jax.protocol.errors import ApiError
from orca_jax.server.event_stream import EventStream
from orca_jax.server.live_stream import MOST_VIEWERS, LiveStream
from orca_jax.server.service import Service

FOLDER = Path(__file__).parents[1] / "page"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
SAFE = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # asked for again each time, answered with 304 while it is the same
}


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    media_type: str
    etag: str


def routes(service: Service) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    files = {path.name: _load(path) for path in sorted(FOLDER.iterdir()) if path.suffix in TYPES}
    stream = LiveStream(service.feed, lambda: service.draining)

    @router.get("/")
    async def front(request: Request) -> Response:
        return _answer(files["index.html"], request)

    @router.get("/page/{name}")
    async def file(name: str, request: Request) -> Response:
        if name not in files:
            raise ApiError(404, f"There is no page file {shown(name)}.")
        return _answer(files[name], request)

    @router.get("/live")
    async def live() -> Response:
        if stream.viewers >= MOST_VIEWERS:
            raise ApiError(
                503, f"{MOST_VIEWERS} viewers watch the live page already; try again later.", kind="server_error",
                code="service_unavailable", retry_after=5,
            )  # fmt: skip
        return EventStream(stream.events())

    return router


def _load(path: Path) -> _File:
    body = path.read_bytes()
    return _File(body, TYPES[path.suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def _answer(file: _File, request: Request) -> Response:
    headers = {**SAFE, "etag": file.etag}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if file.etag in known:
        return Response(status_code=304, headers=headers)
    return Response(file.body, media_type=file.media_type, headers=headers)
