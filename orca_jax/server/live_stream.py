"""The live feed as server-sent events: a few small answers a second, encoded once for all who watch."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable

from orca_jax.observe.live import LiveFeed
from orca_jax.server.event_stream import event

INTERVAL = 0.25
"""Seconds from one answer to the next."""
MOST_VIEWERS = 64


class LiveStream:
    """Streams for viewers, in step with each other, so that those who have seen the same get the same bytes.

    Once `ending` says so they all end within a beat: a server that waits for its connections would never stop.
    """

    def __init__(self, feed: LiveFeed, ending: Callable[[], bool], interval: float = INTERVAL):
        self._feed = feed
        self._ending = ending
        self._interval = interval
        self._viewers = 0
        self._encoded: dict[int, tuple[bytes, int]] = {}  # of this beat, by cursor
        self._beat = -1

    @property
    def viewers(self) -> int:
        return self._viewers

    async def events(self) -> AsyncGenerator[bytes, None]:
        """One viewer's stream: first everything, then what is new, for as long as it stays."""
        self._viewers += 1
        try:
            cursor, sent = 0, b""
            while not self._ending():
                news, cursor = self._news(cursor)
                if news != sent:
                    sent = news
                    yield news
                # to the next beat, and a little more: a timer may fire too early
                await asyncio.sleep(self._interval - time.monotonic() % self._interval + 0.002)
        finally:
            self._viewers -= 1

    def _news(self, cursor: int) -> tuple[bytes, int]:
        beat = int(time.monotonic() / self._interval)
        if beat != self._beat:
            self._beat, self._encoded = beat, {}
        if cursor not in self._encoded:
            news = self._feed.since(cursor)
            self._encoded[cursor] = (event(news), news["cursor"])
        return self._encoded[cursor]
