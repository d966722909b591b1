"""Keeps pages of other sites from using a browser that can reach this server: they need no key of their own for that."""

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from orca_jax.core.checks import shown
from orca_jax.protocol.errors import ApiError
from orca_jax.server.config import ServerConfig
from orca_jax.server.http import error_answer
from orca_jax.server.security import OPEN_PATHS

UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
DEFAULT_PORTS = {"http": 80, "https": 443}


class SiteGuard:
    """ASGI middleware that refuses (403) what a page of another site has asked for.

    A form may be sent to any server without that server's leave, and the browser says in Origin whose page sent it. And a
    site may give its own name this machine's address: to a browser the server is then part of that site. So where nothing
    but the loopback address and no key stands between them, only names of this machine are answered to.
    """

    def __init__(self, app: ASGIApp, config: ServerConfig):
        self._app = app
        self._any_site = "*" in config.origins
        self._origins = {site for origin in config.origins if (site := parts_of(origin)) is not None}
        self._names: frozenset[str] | None = None
        if is_loopback(config.host) and config.key is None and not self._any_site:
            self._names = LOCAL_NAMES | {config.host.lower()} | {host for _, host, _ in self._origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = None if scope["type"] != "http" or scope["path"] in OPEN_PATHS else self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await error_answer(refusal)(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        here = parts_of(f"{scope['scheme']}://{headers.get('host', '')}")
        if self._names is not None and (here is None or here[1] not in self._names):
            return ApiError(
                403, f"Without a key this server answers to localhost only, not to {shown(headers.get('host'))} "
                "(--api-key-file, or name your site in --allowed-origins).", code="host_not_allowed",
            )  # fmt: skip
        origins = headers.getlist("origin")
        if scope["method"] not in UNSAFE or self._any_site:
            return None
        if all(
            (site := parts_of(origin)) is not None and (site == here or site in self._origins) for origin in origins
        ):
            return None
        return ApiError(
            403, f"Pages of {shown(origins[0])} may not use this server (--allowed-origins).", code="origin_not_allowed"
        )


def parts_of(origin: str) -> tuple[str, str, int | None] | None:
    """Scheme, host and port of an origin; None for what is none, such as "null"."""
    try:
        found = urlsplit(origin)
        host, port = found.hostname, found.port
    except ValueError:
        return None
    if not host or not found.scheme or found.path or found.query or found.fragment or found.username is not None:
        return None
    return found.scheme, host, DEFAULT_PORTS.get(found.scheme) if port is None else port


def is_loopback(host: str) -> bool:
    """Whether what listens there can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
