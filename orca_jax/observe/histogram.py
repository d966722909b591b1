"""Counting values into buckets at the price of a bisection, and the buckets themselves, fine enough for 1 ms steps."""

from bisect import bisect_left
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counts:
    """A histogram at one moment: `counts[i]` values in (bounds[i - 1], bounds[i]], the last one above every bound."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def number(self) -> int:
        return sum(self.counts)


class Histogram:
    """Not locked: whoever shares one between threads holds a lock around it."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]):
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def read(self) -> Counts:
        return Counts(self.bounds, tuple(self.counts), self.total)


TOKEN_SECONDS = (
    0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1,
    0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Between two tokens of a sequence, and from one iteration to the next."""

FIRST_TOKEN_SECONDS = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0, 160.0,
)  # fmt: skip

REQUEST_SECONDS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0,
    240.0, 480.0, 960.0,
)  # fmt: skip
"""A whole request, or a stage of one."""

ITERATION_TOKENS = tuple(float(2**power) for power in range(15))
ROWS = (1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 192.0, 256.0, 512.0, 1024.0)
ANSWERS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
TOKENS = tuple(float(step * 10**power) for power in range(6) for step in (1, 2, 5))
"""Of a prompt or an answer."""
