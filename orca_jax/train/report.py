"""The progress line: where the run is, how fast, and when it will end."""

import time

from orca_jax.train.checkpoint import Progress


class Meter:
    """Averages loss and speed between two printed lines."""

    def __init__(self, every: int):
        self._every = every
        self._losses: list[float] = []
        self._since: tuple[float, int] | None = None
        self.mean = float("nan")

    def add(self, progress: Progress, loss: float, behind: float) -> bool:
        """Takes one update's loss; prints a line, and says so, every so many updates (the first one too)."""
        self._losses.append(loss)
        if progress.step > 1 and progress.step % self._every:
            return False
        now = time.monotonic()
        speed = (
            ""
            if self._since is None
            else f"  {(progress.tokens - self._since[1]) / (now - self._since[0]):,.0f} tokens/s"
        )
        self._since = (now, progress.tokens)
        self.mean = sum(self._losses) / len(self._losses)
        self._losses.clear()
        left = progress.seconds * (1.0 - behind) / behind if behind else float("inf")
        eta = f"  ends in {left / 60:.0f} min" if left != float("inf") else ""
        print(f"step {progress.step}  {100 * behind:.1f} %  loss {self.mean:.4f} nats{speed}{eta}", flush=True)
        return True
