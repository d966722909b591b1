"""An executor that takes the time of the one inside it, so that the host's share of an iteration can be told apart."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import jax

from orca_jax.core.grammar import Masks
from orca_jax.core.plan import StepPlan, StepResult
from orca_jax.execution.local import LocalExecutor


@dataclass(slots=True)
class Spent:
    """Seconds: packing and dispatching, waiting for the device, reading what came back; and iterations launched."""

    launch: float = 0.0
    wait: float = 0.0
    read: float = 0.0
    iterations: int = 0


class TimedExecutor:
    """Runs iterations on `inner`. Whatever is not `spent.wait` is the host's own time."""

    def __init__(self, inner: LocalExecutor):
        self.inner = inner
        self.depth = inner.depth
        self.spent = Spent()

    def launch(self, plan: StepPlan, masks: Callable[[], Masks] | None = None) -> None:
        began = time.perf_counter()
        self.inner.launch(plan, masks)
        self.spent.launch += time.perf_counter() - began
        self.spent.iterations += 1

    def collect(self) -> StepResult:
        began = time.perf_counter()
        jax.block_until_ready(self.inner.in_flight[0].output.packed)
        ready = time.perf_counter()
        result = self.inner.collect()
        self.spent.wait += ready - began
        self.spent.read += time.perf_counter() - ready
        return result

    def statistics(self) -> dict[str, float | int | str]:
        return self.inner.statistics()

    def close(self) -> None:
        self.inner.close()
