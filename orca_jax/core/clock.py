"""Time as an argument, so that a recorded run replays exactly and a simulation can own its clock."""

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds on a clock that never goes back; only differences mean anything."""

    def now(self) -> float: ...


class MonotonicClock:
    """The machine's own monotonic clock."""

    def now(self) -> float:
        return time.perf_counter()


class ManualClock:
    """A clock that stands still until it is told to move; for tests and simulations."""

    def __init__(self, start: float = 0.0):
        self._now = start

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds
