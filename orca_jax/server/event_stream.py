"""Server-sent events whose sending stops the moment the client has gone, so that the engine's work for it stops, too."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from orca_jax.protocol.json_text import compact

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": still working\n\n"
KEEP_ALIVE_SECONDS = 15.0


def event(value: Any) -> bytes:
    """One event with a JSON value."""
    return b"data: " + compact(value) + b"\n\n"


class EventStream(Response):
    """Sends byte strings as they come. While none comes, a comment keeps proxies from giving up.

    The iterator is closed when the client disconnects, at whatever point it stands, and `ended` is called however it
    ends. Writing waits where the client does not read, and meanwhile the engine's outputs are merged.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        headers: Mapping[str, str] | None = None,
        ended: Callable[[], None] = lambda: None,
    ):
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no", **(headers or {})})
        del self.headers["content-length"]
        self._chunks = chunks
        self._ended = ended
        self._sent = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:  # out here, for a generator that is never started runs no `finally` of its own
            await self._serve(receive, send)
        finally:
            self._ended()

    async def _serve(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        sending = asyncio.ensure_future(self._send_all(send))
        others = [asyncio.ensure_future(until_disconnected(receive)), asyncio.ensure_future(self._keep_alive(send))]
        try:
            await asyncio.wait((sending, others[0]), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, *others):
                task.cancel()
            await asyncio.gather(sending, *others, return_exceptions=True)
        if not sending.cancelled():
            sending.result()

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._chunks) as chunks:
            async for chunk in chunks:
                self._sent += 1
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _keep_alive(self, send: Send) -> None:
        """A comment whenever nothing has been sent for a while. Each message is whole events, so they may alternate."""
        while True:
            before = self._sent
            await asyncio.sleep(KEEP_ALIVE_SECONDS)
            if self._sent == before:
                await send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})


async def until_disconnected(receive: Receive) -> None:
    """Returns when the client has gone. Nothing else may be reading from `receive`."""
    while (await receive())["type"] != "http.disconnect":
        pass
