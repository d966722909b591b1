"""Who may enter: one key for everything but `/health`, looked at before anything else."""

import base64
import binascii
import hmac

from starlette.types import ASGIApp, Receive, Scope, Send

from orca_jax.protocol.errors import ApiError
from orca_jax.server.http import error_answer

OPEN_PATHS = frozenset({"/health"})


class KeyGuard:
    """ASGI middleware. A client sends `Authorization: Bearer KEY`; a browser may send the key as a password (Basic).

    Works on the very path that the router will look at, so no spelling of it can be open here and something else there.
    """

    def __init__(self, app: ASGIApp, key: str):
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or open_to_all(scope) or self._admits(scope):
            await self._app(scope, receive, send)
            return
        answer = error_answer(ApiError(401, "Incorrect API key provided.", code="invalid_api_key"))
        if b"text/html" in dict(scope["headers"]).get(b"accept", b""):  # a browser, which can ask its user for the key
            answer.headers["www-authenticate"] = 'Basic realm="orca_jax (any name, the API key as password)"'
        await answer(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        # In constant time: how long a refusal takes tells nothing about the key. Two headers are none.
        return len(given) == 1 and hmac.compare_digest(credentials(given[0]), self._key)


def open_to_all(scope: Scope) -> bool:
    """Whether the path, without the one under which a proxy offers this server, needs no key."""
    return str(scope["path"]).removeprefix(scope.get("root_path", "")) in OPEN_PATHS


def credentials(header: bytes) -> bytes:
    """The key in an Authorization header; empty where there is none."""
    scheme, _, rest = header.partition(b" ")
    rest = rest.strip()
    if scheme.lower() == b"bearer":
        return rest
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(rest, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""
