"""Ctrl-C and SIGTERM as a wish to stop, so that what is written ends whole and the run can be resumed."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Calls `stop` for the first signal, and notes which it was; the second one acts as it always does.

    A context manager for the main thread. `stop` runs in the signal's handler, so it must be safe there.
    """

    def __init__(self, stop: Callable[[], None]):
        self.received: int | None = None
        self._stop = stop
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        for known, handler in self._before.items():
            signal.signal(known, handler)
        self._stop()
