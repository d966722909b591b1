"""Doubles for the runner: an answerer without a model, a sink in memory, a disk that fills up."""

import errno
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from orca_jax.batch.words import Answered, Failed, Item
from orca_jax.core.errors import EngineError, RequestError


class EchoAnswerer:
    """Answers with the prompt's letters turned round. `delay` seconds each, `scramble` changes the order of the ends."""

    def __init__(self, delay: float = 0.0, scramble: bool = False, breaks_at: int | None = None):
        self.delay, self.scramble, self.breaks_at = delay, scramble, breaks_at
        self.pool = ThreadPoolExecutor(4 if scramble else 1)
        self.prepared: list[int] = []
        self.submitted: list[int] = []
        self.cancelled = 0
        self.most_running = self._running = 0
        self._lock = threading.Lock()

    def prepare(self, item: Item) -> Item:
        self.prepared.append(item.number)
        if item.body.get("prompt") == "refuse me":
            raise RequestError("temperature must be hot, got cold.", "temperature")
        return item

    def submit(self, work: Item, done: Callable[[object], None]) -> None:
        self.submitted.append(work.number)
        with self._lock:
            self._running += 1
            self.most_running = max(self.most_running, self._running)
        self.pool.submit(self._work, work, done)

    def _work(self, work: Item, done: Callable[[object], None]) -> None:
        if self.delay:
            time.sleep(self.delay * (1 + work.number * 7919 % 5 if self.scramble else 1))
        with self._lock:
            self._running -= 1
        done(str(work.body.get("prompt", work.body.get("messages")))[::-1])

    def answer(self, work: Item, raw: str) -> Answered | Failed:
        if work.number == self.breaks_at:
            raise EngineError("the engine failed: double")
        if raw == "REKAM NAN":
            return Failed("server_error", "logits are not finite", status=500, body={"error": {}})
        return Answered({"url": work.url, "text": raw, "seed": work.body.get("seed")}, 1, len(raw))

    def refusal(self, error: RequestError) -> Failed:
        return Failed("invalid_request_error", str(error), error.parameter, 400, {"error": {"message": str(error)}})

    def cancel(self) -> None:
        self.cancelled += 1


class HandAnswerer(EchoAnswerer):
    """Ends nothing by itself: the test calls what `pending` holds."""

    def __init__(self) -> None:
        super().__init__()
        self.pending: SimpleQueue[tuple[Item, Callable[[object], None]]] = SimpleQueue()

    def submit(self, work: Item, done: Callable[[object], None]) -> None:
        self.submitted.append(work.number)
        self.pending.put((work, done))


class SmallDisk:
    """A file in memory on a disk of `capacity` bytes, which writes only in part before it is full."""

    def __init__(self, content: bytes = b"", capacity: int = 2**40):
        self.content, self.capacity = bytearray(content), capacity
        self.synced = 0
        self.closed = False

    def size(self) -> int:
        return len(self.content)

    def read(self, count: int, offset: int) -> bytes:
        return bytes(self.content[offset : offset + count])

    def append(self, data: bytes) -> int:
        room = self.capacity - len(self.content)
        if room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.content += data[:room]
        return min(room, len(data))

    def truncate(self, size: int) -> None:
        del self.content[size:]

    def sync(self) -> None:
        self.synced = len(self.content)

    def close(self) -> None:
        self.closed = True
