"""How many may wait. Beyond that a request is refused at once: a queue without end helps nobody."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from orca_jax.core.events import Event, IterationLaunched, SequenceFinished
from orca_jax.core.request import Request
from orca_jax.protocol.errors import ApiError

MOST_SECONDS = 60
FORGET_AFTER = 10.0  # seconds over which the rate of departures is taken


class WaitingRoom:
    """Counts the requests that have not had their first iteration, and their prompt tokens. An engine's observer.

    Requests are admitted by the server's threads and leave on the engine's.
    """

    def __init__(self, most_requests: int, most_tokens: int, now: Callable[[], float] = time.monotonic):
        self._most_requests = most_requests
        self._most_tokens = most_tokens
        self._now = now
        self._lock = threading.Lock()
        self._waiting: dict[str, int] = {}
        self._tokens = 0
        self._departures: deque[float] = deque()
        self.rejections = {"max_num_queued_reqs": 0, "max_num_queued_tokens": 0}

    def check(self, requests: int = 1) -> None:
        """Raise ApiError (429) where there is no room, before a body is even looked at."""
        with self._lock:
            self._check(requests, 0)

    def enter(self, requests: Sequence[Request]) -> None:
        """Admit all or none. Raises ApiError (429)."""
        tokens = sum(len(request.prompt_token_ids) for request in requests)
        with self._lock:
            self._check(len(requests), tokens)
            for request in requests:
                self._waiting[request.request_id] = len(request.prompt_token_ids)
            self._tokens += tokens

    def leave(self, request_ids: Sequence[str]) -> None:
        """For those that never reached the engine."""
        with self._lock:
            for request_id in request_ids:
                self._depart(request_id)

    def __call__(self, event: Event) -> None:
        if isinstance(event, IterationLaunched):
            started = [row.request_id for row in event.rows if row.start == 0]
        elif isinstance(event, SequenceFinished):
            started = [event.request_id]
        else:
            return
        if started:
            with self._lock:
                for request_id in started:
                    self._depart(request_id)

    def statistics(self) -> dict[str, int]:
        with self._lock:
            return {"queued_requests": len(self._waiting), "queued_tokens": self._tokens}

    def _depart(self, request_id: str) -> None:
        tokens = self._waiting.pop(request_id, None)
        if tokens is not None:
            self._tokens -= tokens
            now = self._now()
            self._departures.append(now)
            while self._departures[0] < now - FORGET_AFTER:
                self._departures.popleft()

    def _check(self, requests: int, tokens: int) -> None:
        if len(self._waiting) + requests > self._most_requests:
            self._refuse("max_num_queued_reqs", f"{len(self._waiting)} requests", self._most_requests)
        # One that is alone may be longer than the whole room: it waits for nobody.
        if self._waiting and self._tokens + tokens > self._most_tokens:
            self._refuse("max_num_queued_tokens", f"{self._tokens} prompt tokens", self._most_tokens)

    def _refuse(self, bound: str, waiting: str, most: int) -> None:
        self.rejections[bound] += 1
        raise ApiError(
            429, f"The server is overloaded: {waiting} wait, and {bound} is {most}. Please try again later.",
            kind="rate_limit_error", code="rate_limit_exceeded", retry_after=self._wait_advised(),
        )  # fmt: skip

    def _wait_advised(self) -> int:
        """Seconds until half of the queue should have gone, at the rate of late."""
        since = self._now() - FORGET_AFTER
        rate = sum(when >= since for when in self._departures) / FORGET_AFTER
        if not rate:
            return MOST_SECONDS // 2
        return min(MOST_SECONDS, max(1, math.ceil(len(self._waiting) / 2 / rate)))
