"""The engine's loop in a thread of its own, and the one way in: everybody else hands things over and is called back."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from orca_jax.core.errors import EngineError, OrcaError
from orca_jax.core.outputs import CompletionOutput, RequestMetrics, RequestOutput
from orca_jax.core.request import Request
from orca_jax.engine.engine import Engine

logger = logging.getLogger(__name__)

T = TypeVar("T")
Sink = Callable[[RequestOutput], None]
"""Takes a request's outputs on the engine's thread, the last one with `finished` set. Must neither block nor raise."""


class EngineThread:
    """Owns an engine and turns it while it has work; sleeps without. All methods may be called from any thread.

    Each submitted request ends with exactly one output that is `finished`, whatever happens: an abort, a failure of the
    engine, a closing. What is handed over between two iterations is taken up by the next one, so an abort takes effect
    within an iteration.
    """

    def __init__(self, engine: Engine):
        self._engine = engine
        self._commands: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._waiting: dict[str, tuple[Request, Sink]] = {}  # touched by the engine's thread alone
        self._turn_began: float | None = None
        self._thread = threading.Thread(target=self._run, name="orca-engine", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> EngineError | None:
        """Why the engine takes no more requests; None while it does."""
        return self._engine.failure

    @property
    def alive(self) -> bool:
        """Whether requests are taken: neither failed nor closed."""
        return self._thread.is_alive() and not self._closing and self._engine.failure is None

    def busy_seconds(self) -> float:
        """How long the iteration under way has taken so far; 0 between iterations and when idle."""
        began = self._turn_began
        return 0.0 if began is None else time.monotonic() - began

    def submit(self, requests: Sequence[Request], sink: Sink) -> None:
        """Hand requests over, all or none. `sink` is told of each, even where the engine has to refuse one.

        Raises EngineError where it has failed or is closed already.
        """
        self._post(lambda: self._add(requests, sink))

    def abort(self, request_ids: Iterable[str]) -> None:
        """End requests with "abort"; their last outputs still come. Unknown and ended ones are ignored."""
        ids = tuple(request_ids)
        try:
            self._post(lambda: self._abort(ids))
        except EngineError:
            return  # a closing or failed engine has ended them, or is about to

    def call(self, function: Callable[[Engine], T]) -> "Future[T]":
        """Run `function` on the engine between two iterations. Raises EngineError where it is closed."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function(self._engine))
            except Exception as error:  # noqa: BLE001  # it belongs to whoever asked, who gets it from the future
                future.set_exception(error)

        self._post(run, even_failed=True)
        return future

    def close(self, timeout: float = 60.0) -> bool:
        """End what is live with "abort", free the memory, stop the thread. Idempotent.

        Returns False where the iteration under way has not come back within `timeout` seconds.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def __enter__(self) -> "EngineThread":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _post(self, command: Callable[[], None], even_failed: bool = False) -> None:
        with self._changed:
            if self._closing:
                raise EngineError("the engine is closed; it takes no more requests.")
            if self._engine.failure is not None and not even_failed:
                raise self._engine.failure
            self._commands.append(command)
            self._changed.notify()

    def _run(self) -> None:
        try:
            while self._wait():
                self._obey()
                self._turn()
        except Exception as error:  # a defect, such as an observer's: it is the engine's failure now
            logger.critical("the engine's thread has failed: %s", error, exc_info=error)
            self._fail(error)
        finally:
            with self._changed:
                self._closing = True
            self._finish()

    def _wait(self) -> bool:
        """Sleep until there is something to do; False once the engine is to be closed."""
        with self._changed:
            while not (self._closing or self._commands or self._engine.has_unfinished):
                self._changed.wait()
            return not self._closing

    def _obey(self) -> None:
        while self._commands:
            self._commands.popleft()()

    def _turn(self) -> None:
        if not self._engine.has_unfinished:
            return
        self._turn_began = time.monotonic()
        try:
            outputs = self._engine.step()
        finally:
            self._turn_began = None
        if self._engine.failure is not None:
            logger.critical("%s", self._engine.failure, exc_info=self._engine.failure)
        for output in outputs:
            self._deliver(output)

    def _add(self, requests: Sequence[Request], sink: Sink) -> None:
        added: list[Request] = []
        try:
            for request in requests:
                self._engine.add_request(request)
                self._waiting[request.request_id] = (request, sink)
                added.append(request)
        except OrcaError as error:
            for request in added:  # theirs comes as an abort otherwise, and would not say why
                del self._waiting[request.request_id]
                self._engine.abort(request.request_id)
            for request in requests:
                _tell(sink, refused(request, str(error)))
        except Exception as error:
            for request in added:
                del self._waiting[request.request_id]
            for request in requests:
                _tell(sink, refused(request, f"the engine failed: {type(error).__name__}"))
            raise

    def _abort(self, request_ids: Iterable[str]) -> None:
        for request_id in request_ids:
            if request_id in self._waiting and self._engine.failure is None:
                self._engine.abort(request_id)

    def _deliver(self, output: RequestOutput) -> None:
        if output.request_id not in self._waiting:
            return
        _, sink = self._waiting[output.request_id]
        if output.finished:
            del self._waiting[output.request_id]
        if not _tell(sink, output) and not output.finished:
            del self._waiting[output.request_id]
            self._engine.abort(output.request_id)

    def _fail(self, error: Exception) -> None:
        try:
            self._engine.fail(error)
        except Exception:  # the same defect again: whoever waits is told by `_finish` then
            logger.exception("the engine could not even fail in order")

    def _finish(self) -> None:
        """After the last turn: what is live ends, memory goes back, what was handed over and not looked at is refused."""
        try:
            self._engine.close()
            for output in self._engine.output.take():
                self._deliver(output)
        except Exception:
            logger.exception("the engine could not be closed in order")
        finally:
            for request, sink in self._waiting.values():  # only where closing itself has failed
                _tell(sink, refused(request, "the engine stopped before this request had ended."))
            self._waiting.clear()
            self._obey()  # an engine that is closed refuses requests, which ends them


def refused(request: Request, message: str) -> RequestOutput:
    """The only output of a request that the engine could not take."""
    return RequestOutput(
        request_id=request.request_id,
        prompt=request.prompt,
        prompt_token_ids=list(request.prompt_token_ids),
        outputs=[CompletionOutput(index, "", [], finish_reason="error") for index in range(request.params.n)],
        finished=True,
        metrics=RequestMetrics(request.arrival_time),
        seed=request.params.seed,
        error=message,
    )


def _tell(sink: Sink, output: RequestOutput) -> bool:
    """Whether the sink took it. One that raises is a defect of its own: reported, and nobody else's trouble."""
    try:
        sink(output)
    except Exception:
        logger.exception("whoever waits for request %s failed to take an output; it is ended", output.request_id)
        return False
    return True
