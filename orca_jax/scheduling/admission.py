"""When a sequence may take K/V memory: the one point where a policy other than the paper's would be plugged in."""

from typing import Protocol

from orca_jax.core.plan import Seat
from orca_jax.core.sequence import Sequence
from orca_jax.scheduling.kv_manager import KVManager


class Admission(Protocol):
    """Decides whether a selected sequence gets the memory that its next row needs."""

    def make_room(self, sequence: Sequence, count: int) -> Seat | None:
        """The sequence's seat, with room for its next `count` positions; None leaves everything as it was."""
        ...


class Reserve:
    """The paper's policy: everything a sequence can ever need, taken once, at its first selection.

    `max_tokens` in the paper's sense is prompt and output together. Whoever runs can therefore always go on, which is
    what makes a deadlock impossible: memory taken token by token can leave every sequence one page short.
    """

    def __init__(self, kv: KVManager):
        self._kv = kv

    def make_room(self, sequence: Sequence, count: int) -> Seat | None:
        return sequence.seat or self._kv.reserve(sequence, sequence.max_len)
