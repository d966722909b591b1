"""Threads for work that takes long, beside the event loop: each kind has its own, so that none waits behind another."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from orca_jax.protocol.errors import ApiError

T = TypeVar("T")


class Crew:
    """A few threads for one kind of work. `most` bounds the pieces that are under way or wait; more are refused."""

    def __init__(self, name: str, threads: int, most: int | None = None):
        self._name = name
        self._most = most
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"orca-{name}")
        self._present = 0

    async def do(self, function: Callable[..., T], *arguments: Any) -> T:
        """The function's value. Raises what it raises, and ApiError (429) where too many are here already."""
        if self._most is not None and self._present >= self._most:
            raise ApiError(
                429, f"The server is overloaded: {self._present} requests of this kind ({self._name}) wait. "
                "Please try again later.", kind="rate_limit_error", code="rate_limit_exceeded", retry_after=1,
            )  # fmt: skip
        self._present += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)
        finally:
            self._present -= 1

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class Crews:
    """The server's. Calls are bounded by the waiting room, and answers by the calls; the rest is bounded here.

    64 bodies of the default 4 MiB are memory that any machine can spare, and more than a client sends at once that
    counts the tokens of its documents.
    """

    def __init__(self) -> None:
        self.calls = Crew("calls", 2)
        self.answers = Crew("answers", 2)
        self.tokens = Crew("tokens", 1, most=64)
        self.files = Crew("files", 2, most=64)

    def close(self) -> None:
        for crew in (self.calls, self.answers, self.tokens, self.files):
            crew.close()
