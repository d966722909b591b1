"""Warm-up, stable, decay: a learning rate that ends well at any deadline, because only the decay needs to know it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """The height of the learning rate, 0 to 1, by the share of the run that is behind.

    `warmup` and `decay` are shares of the whole run. The decay is linear and ends at zero.
    """

    warmup: float
    decay: float

    def height(self, progress: float) -> float:
        """The factor on the peak learning rate at `progress` (0 at the start, 1 at the end)."""
        rise = progress / self.warmup if self.warmup else 1.0
        fall = (1.0 - progress) / self.decay if self.decay else 1.0
        return max(0.0, min(1.0, rise, fall))


def progress(*, step: int, steps: int | None, seconds: float, minutes: float) -> float:
    """The share of the run that is behind: by steps where their number is set, by time elsewhere; at most 1."""
    done = step / steps if steps else seconds / (60.0 * minutes)
    return min(1.0, done)
