"""Bodies and answers of plain HTTP, with their bounds."""

import asyncio
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from orca_jax.core.checks import shown
from orca_jax.protocol.errors import ApiError, error_object
from orca_jax.protocol.json_text import compact
from orca_jax.server.config import ServerConfig


class JsonAnswer(Response):
    """Plain data as compact JSON; bytes are JSON already."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return content if isinstance(content, bytes) else compact(content)


def error_answer(error: ApiError) -> JsonAnswer:
    """An error with its status, and when to try again where that helps."""
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JsonAnswer(error_object(error), status_code=error.status, headers=headers)


async def read_body(request: Request, config: ServerConfig) -> bytes:
    """The whole body. Raises ApiError for one that is too large (before it has all come), too slow, or not JSON."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise ApiError(415, f"Content-Type must be application/json, got {shown(kind)}.")
    check_length(request, config.max_body_bytes, too_large(config.max_body_bytes))
    parts, size = [], 0
    try:
        async with asyncio.timeout(config.body_timeout):
            async for part in request.stream():
                size += len(part)
                if size > config.max_body_bytes:
                    raise too_large(config.max_body_bytes)
                parts.append(part)
    except TimeoutError as error:
        raise ApiError(408, f"The body did not arrive within {config.body_timeout:g} seconds.") from error
    except ClientDisconnect as error:
        raise ApiError(400, "The client left before its body had arrived.") from error
    return b"".join(parts)


def check_length(request: Request, most: int, refusal: ApiError) -> None:
    """Raise the refusal for what says that it is too long, before reading any of it."""
    length = request.headers.get("content-length", "0")
    if not length.isdigit():
        raise ApiError(400, f"Content-Length must be a number, got {shown(length)}.")
    if len(length) > 18 or int(length) > most:
        raise refusal


def too_large(most: int) -> ApiError:
    return ApiError(413, f"The body is larger than {most} bytes (--max-body-bytes).")
