"""Who answers: the one seam between the runner and an engine, narrow enough for a double."""

from collections.abc import Callable
from typing import Any, Protocol

from orca_jax.batch.words import Answered, Failed, Item


class Answerer(Protocol):
    """Takes items through three stages; `work` and `raw` are its own business."""

    def prepare(self, item: Item) -> Any:
        """Check and tokenise. Called from several threads; raises RequestError or ApiError. Returns the `work`."""

    def submit(self, work: Any, done: Callable[[Any], None]) -> None:
        """Start the work. `done(raw)` is called once, from any thread, when it has ended; it does not block."""

    def answer(self, work: Any, raw: Any) -> Answered | Failed:
        """What came of it. Raises EngineError where nothing can be answered any more."""

    def refusal(self, error: Exception) -> Failed:
        """What `prepare` raised, as a server would put it."""

    def cancel(self) -> None:
        """End all work that has been submitted and is not done; whether `done` is still called is left open."""
