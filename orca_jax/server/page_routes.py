"""The live page: its files at `/` and `/page/`, its news at `/live`. Nothing of it comes from another host."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from orca_jax.observe.live import LiveFeed
from orca_jax.server.live_stream import LiveStream

FOLDER = Path(__file__).parent / "page"
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
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asked for again each time, answered with 304 while it is the same
}


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    media_type: str
    etag: str


def page_routes(app: FastAPI | APIRouter, feed: LiveFeed) -> LiveStream:
    """Add the page to `app`. The files are public and hold no data; guard `/live` as every other route is guarded.

    Call `close` of what is returned when the server begins to stop.
    """
    files = {path.name: _load(path) for path in sorted(FOLDER.iterdir()) if path.suffix in TYPES}
    stream = LiveStream(feed)

    async def front(request: Request) -> Response:
        return _answer(files["index.html"], request)

    async def file(name: str, request: Request) -> Response:
        if name not in files:
            return _refusal(404, f"there is no page file {name[:60]!r}", "not_found")
        return _answer(files[name], request)

    async def live() -> Response:
        if stream.full:
            return _refusal(503, "too many viewers of the live page; try again later", "overloaded")
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream.events(), media_type="text/event-stream", headers=headers)

    for path, endpoint in (("/", front), ("/page/{name}", file), ("/live", live)):
        app.add_api_route(path, endpoint, methods=["GET"], include_in_schema=False, response_model=None)
    return stream


def _load(path: Path) -> _File:
    body = path.read_bytes()
    return _File(body, TYPES[path.suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def _answer(file: _File, request: Request) -> Response:
    headers = {**SAFE, "ETag": file.etag}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if file.etag in known:
        return Response(status_code=304, headers=headers)
    return Response(file.body, media_type=file.media_type, headers=headers)


def _refusal(status: int, message: str, code: str) -> JSONResponse:
    error = {"message": message, "type": "invalid_request_error" if status < 500 else "server_error"}
    headers = {"Retry-After": "5"} if status == 503 else None
    return JSONResponse({"error": {**error, "param": None, "code": code}}, status_code=status, headers=headers)
