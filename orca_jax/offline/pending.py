"""The requests that one caller waits for, in the order in which it gave them."""

from collections.abc import Generator, Iterable

from orca_jax.core.outputs import RequestOutput
from orca_jax.core.request import Request
from orca_jax.offline.desk import Desk
from orca_jax.offline.progress import GenerationBar


class Pending:
    """Follows requests from the desk to their ends. What is still running can be discarded at any time."""

    def __init__(self, desk: Desk):
        self._desk = desk
        self._last: dict[str, RequestOutput | None] = {}
        self._place: dict[str, int] = {}
        self._running: set[str] = set()
        self._num_added = 0

    @property
    def has_unfinished(self) -> bool:
        return bool(self._running)

    def __len__(self) -> int:
        return len(self._last)

    def add(self, requests: Iterable[Request]) -> list[str]:
        """Hand requests to the engine; returns their ids."""
        ids = self._desk.submit(requests)
        for key in ids:
            self._place[key] = self._num_added = self._num_added + 1
        self._last.update(dict.fromkeys(ids))
        self._running.update(ids)
        return ids

    def turn(self) -> list[RequestOutput]:
        """Run one iteration; returns what is new about these requests, in their order."""
        self._desk.turn()
        outputs = []
        for key in sorted(self._desk.fresh(self._running), key=self._place.__getitem__):
            for output in self._desk.collect(key):
                self._last[key] = output
                outputs.append(output)
                if output.finished:
                    self._running.discard(key)
        return outputs

    def wait(self, bar: GenerationBar) -> None:
        """Turn until all have ended. Whatever interrupts this discards those that have not."""
        try:
            while self._running:
                bar.update(sum(output.finished for output in self.turn()))
        except BaseException:
            self.discard(list(self._running))
            raise

    def deltas(self, requests: Iterable[Request]) -> Generator[RequestOutput, None, None]:
        """Add requests and turn until all have ended, yielding what is new. Leaving early discards those that have not."""
        try:
            self.add(requests)
            while self._running:
                yield from self.turn()
        finally:
            self.discard(list(self._last))

    def take(self) -> list[RequestOutput]:
        """The last output of each, in order; they are forgotten."""
        outputs = [output for output in self._last.values() if output is not None]
        self.discard(list(self._last))
        return outputs

    def discard(self, request_ids: Iterable[str]) -> None:
        """End requests and forget them; ids that are unknown are ignored."""
        known = [key for key in request_ids if key in self._last]
        running = [key for key in known if key in self._running]
        for key in known:
            del self._last[key], self._place[key]
        self._running.difference_update(running)
        if running:
            self._desk.discard(running)
