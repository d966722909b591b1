"""Results that come back in any order, given on in the order in which they were taken."""

from collections.abc import Iterator

from orca_jax.batch.words import Result


class Reorder:
    """Positions count from 0. `in_order=False` holds nothing back."""

    def __init__(self, in_order: bool):
        self._in_order = in_order
        self._held: dict[int, Result] = {}
        self._next = 0

    def push(self, position: int, result: Result) -> Iterator[Result]:
        """The results that may be written now that this one is here."""
        if not self._in_order:
            self._next += 1
            yield result
            return
        self._held[position] = result
        while self._next in self._held:
            yield self._held.pop(self._next)
            self._next += 1

    @property
    def num_given(self) -> int:
        return self._next
