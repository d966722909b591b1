"""The engine for asyncio: a stream of outputs for each call, that never blocks the loop and never outgrows its answers."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from types import TracebackType

from orca_jax.core.errors import EngineError
from orca_jax.core.outputs import RequestOutput, merged
from orca_jax.core.request import Request
from orca_jax.engine.thread import EngineThread


class AsyncEngine:
    """Gives requests to an engine's thread and brings their outputs back into the running event loop.

    Belongs to the loop in which it was made. Outputs cross over in batches: however many streams have news, the loop is
    woken once.
    """

    def __init__(self, thread: EngineThread):
        self.thread = thread
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._arrived: list[tuple[OutputStream, RequestOutput]] = []

    def stream(self, requests: Sequence[Request]) -> "OutputStream":
        """Start requests; iterate over the result for their outputs. Raises EngineError where none are taken.

        Use it as an async context manager: what has not ended when the block is left is aborted.
        """
        stream = OutputStream(self.thread, requests)
        self.thread.submit(requests, lambda output: self._post(stream, output))
        return stream

    async def generate(self, requests: Sequence[Request]) -> list[RequestOutput]:
        """The last output of each request, in order. Cancelling ends them."""
        last: dict[str, RequestOutput] = {}
        async with self.stream(requests) as stream:
            async for output in stream:
                last[output.request_id] = output
        return [last[request.request_id] for request in requests]

    def _post(self, stream: "OutputStream", output: RequestOutput) -> None:
        """On the engine's thread."""
        with self._lock:
            first = not self._arrived
            self._arrived.append((stream, output))
        if first:
            try:
                self._loop.call_soon_threadsafe(self._hand_out)
            except RuntimeError as error:  # the loop is closed, and with it everybody who might have waited
                raise EngineError("the event loop that waited for this output is closed") from error

    def _hand_out(self) -> None:
        with self._lock:
            arrived, self._arrived = self._arrived, []
        for stream, output in arrived:
            stream.put(output)


class OutputStream:
    """The outputs of one call's requests as they come, each request's last one `finished`; then it ends.

    Whoever reads slowly holds nobody up and gathers no queue: outputs of a request that have not been taken are merged
    into one, so what waits here is at most the answers themselves.
    """

    def __init__(self, thread: EngineThread, requests: Sequence[Request]):
        self._thread = thread
        self._live = {request.request_id for request in requests}
        self._waiting: dict[str, RequestOutput] = {}
        self._news = asyncio.Event()

    def put(self, output: RequestOutput) -> None:
        """Called by the engine's side, within the loop."""
        before = self._waiting.get(output.request_id)
        self._waiting[output.request_id] = output if before is None else merged(before, output)
        self._news.set()

    def __aiter__(self) -> AsyncIterator[RequestOutput]:
        return self

    async def __anext__(self) -> RequestOutput:
        while not self._waiting:
            if not self._live:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        output = self._waiting.pop(next(iter(self._waiting)))
        if output.finished:
            self._live.discard(output.request_id)
        return output

    def close(self) -> None:
        """End what has not ended. Idempotent."""
        if self._live:
            self._thread.abort(self._live)
            self._live = set()

    async def __aenter__(self) -> "OutputStream":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
