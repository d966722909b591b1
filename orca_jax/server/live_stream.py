"""The live feed as server-sent events: a few small answers a second, encoded once for all who watch."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

from orca_jax.observe.live import LiveFeed

INTERVAL = 0.25
"""Seconds from one answer to the next."""
SILENCE = 10.0
"""Seconds without news after which a comment shows that the connection lives."""
MOST_VIEWERS = 64


class LiveStream:
    """Streams for viewers, in step with each other, so that those who have seen the same get the same bytes.

    `close` ends them all, without which a server that waits for its connections would never stop.
    """

    def __init__(self, feed: LiveFeed, interval: float = INTERVAL, most_viewers: int = MOST_VIEWERS):
        self._feed = feed
        self._interval = interval
        self._most_viewers = most_viewers
        self._viewers = 0
        self._closing = asyncio.Event()
        self._encoded: dict[int, tuple[bytes, int]] = {}  # of this beat, by cursor
        self._beat = -1

    @property
    def full(self) -> bool:
        return self._viewers >= self._most_viewers

    @property
    def viewers(self) -> int:
        return self._viewers

    def close(self) -> None:
        """End every stream within the moment, and refuse new ones. From the event loop's thread."""
        self._closing.set()

    async def events(self) -> AsyncIterator[bytes]:
        """One viewer's stream: first everything, then what is new, until it leaves or `close` is called."""
        self._viewers += 1
        try:
            cursor, sent, last = 0, b"", time.monotonic()
            while not self._closing.is_set():
                event, cursor = self._event(cursor)
                if event != sent:
                    sent, last = event, time.monotonic()
                    yield event
                elif time.monotonic() - last > SILENCE:
                    last = time.monotonic()
                    yield b": nothing new\n\n"
                await self._rest()
        finally:
            self._viewers -= 1

    def _event(self, cursor: int) -> tuple[bytes, int]:
        beat = int(time.monotonic() / self._interval)
        if beat != self._beat:
            self._beat, self._encoded = beat, {}
        if cursor not in self._encoded:
            news = self._feed.since(cursor)
            data = json.dumps(news, separators=(",", ":"), allow_nan=False)
            self._encoded[cursor] = (f"data: {data}\n\n".encode(), news["cursor"])
        return self._encoded[cursor]

    async def _rest(self) -> None:
        """Until the next beat, or until closing."""
        seconds = self._interval - time.monotonic() % self._interval + 0.002  # a timer may fire a little early
        try:
            await asyncio.wait_for(self._closing.wait(), seconds)
        except TimeoutError:
            return
