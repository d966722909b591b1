"""One engine, several callers: whoever waits turns the loop, and each gets the outputs of its own requests only."""

import threading
from collections.abc import Iterable

from orca_jax.core.errors import EngineError
from orca_jax.core.outputs import RequestOutput
from orca_jax.core.request import Request
from orca_jax.engine.engine import Engine
from orca_jax.offline.interrupt import interrupt_deferred


class Desk:
    """Sorts what the engine gives by request. Safe to use from several threads: iterations run one at a time."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._lock = threading.RLock()
        self._outputs: dict[str, list[RequestOutput]] = {}
        self._fresh: set[str] = set()
        self._stepping = False
        self._abandoned: list[str] = []  # discarded while the engine was in the middle of an iteration

    def submit(self, requests: Iterable[Request]) -> list[str]:
        """Give requests to the engine, all or none. Returns their ids; `collect` or `discard` each of them later."""
        ids: list[str] = []
        try:
            with interrupt_deferred(), self._lock:
                for request in requests:
                    self._engine.add_request(request)
                    self._outputs[request.request_id] = []
                    ids.append(request.request_id)
        except BaseException:
            self.discard(ids)
            raise
        return ids

    def turn(self) -> None:
        """Run one iteration, unless there is nothing to run. Raises EngineError once the engine has failed."""
        with interrupt_deferred(), self._lock:
            if self._engine.failure is not None:
                raise self._engine.failure
            if not self._engine.has_unfinished:
                self._check_all_ended()
                return
            for output in self._step():
                if output.request_id in self._outputs:  # otherwise it has been discarded
                    self._outputs[output.request_id].append(output)
                    self._fresh.add(output.request_id)
            if self._engine.failure is not None:
                raise self._engine.failure

    def fresh(self, request_ids: set[str]) -> set[str]:
        """Those of `request_ids` that have something to collect."""
        with self._lock:
            return self._fresh & request_ids

    def collect(self, request_id: str) -> list[RequestOutput]:
        """What is new about a request since the last call. After its last output the desk forgets it."""
        with self._lock:
            self._fresh.discard(request_id)
            outputs = self._outputs[request_id]
            if outputs and outputs[-1].finished:
                del self._outputs[request_id]
            else:
                self._outputs[request_id] = []
            return outputs

    def discard(self, request_ids: Iterable[str]) -> None:
        """End requests and forget them. What they held is free when this returns, if nobody else is being served.

        Within an iteration, which is where the collector of garbage may find a stream that nobody reads, they end after it.
        """
        with interrupt_deferred(), self._lock:
            if self._stepping:
                self._abandoned += request_ids
                return
            for request_id in request_ids:
                self._forget(request_id)
            while not self._outputs and self._engine.failure is None and self._engine.has_unfinished:
                self._step()

    def statistics(self) -> dict[str, float | int | str]:
        """The engine's counters, as they stand between two iterations."""
        with self._lock:
            return self._engine.statistics()

    def close(self) -> None:
        """Close the engine between two iterations; whoever still waits gets what its requests had, ended by "abort"."""
        with interrupt_deferred(), self._lock:
            self._engine.close()

    def _step(self) -> list[RequestOutput]:
        """One iteration, during which nothing may end a request."""
        self._stepping = True
        try:
            return self._engine.step()
        finally:
            self._stepping = False
            while self._abandoned:
                self._forget(self._abandoned.pop())

    def _forget(self, request_id: str) -> None:
        self._fresh.discard(request_id)
        if self._outputs.pop(request_id, None) is not None and self._engine.failure is None:
            self._engine.abort(request_id)

    def _check_all_ended(self) -> None:
        """An idle engine owes nobody an output; without this check a lost one would be waited for without end."""
        owed = [key for key, outputs in self._outputs.items() if not (outputs and outputs[-1].finished)]
        if owed:
            raise EngineError(f"the engine is idle, but {len(owed)} requests have not ended ({owed[0]} is one)")
