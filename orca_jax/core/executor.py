"""What the engine needs from whatever runs its iterations: the local device, worker processes, a simulator or a fake."""

from collections.abc import Callable
from typing import Protocol

from orca_jax.core.grammar import Masks
from orca_jax.core.plan import StepPlan, StepResult


class Executor(Protocol):
    """Runs iterations in the order in which they are launched.

    `depth` is the paper's `n_workers`: how many *different* batches keep the hardware busy (1 on a single device, the
    number of stages in a pipeline). Program order is the only ordering there is: what a launch reads, every earlier
    launch has written. Pages and slots may therefore be handed to another sequence as soon as the last launch that
    touches them has been dispatched.
    """

    @property
    def depth(self) -> int: ...

    def launch(self, plan: StepPlan, masks: Callable[[], Masks] | None = None) -> None:
        """Start one iteration and return without waiting for it.

        `masks` gives the tokens that some of its rows may choose, where the plan has such rows. It is called once,
        before this returns, as late as its result is needed: while the model runs.
        """

    def collect(self) -> StepResult:
        """Wait for the oldest iteration in flight and return what it gave."""
        ...

    def statistics(self) -> dict[str, float | int | str]: ...

    def close(self) -> None:
        """Give the device memory back. Idempotent; nothing can be launched afterwards."""
