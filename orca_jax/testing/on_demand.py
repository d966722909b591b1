"""The admission policy that the paper warns of, kept to show why."""

from orca_jax.core.plan import Seat
from orca_jax.core.sequence import Sequence
from orca_jax.scheduling.kv_manager import KVManager


class OnDemand:
    """Takes K/V memory only as far as the next row needs it, and never takes any back: it can deadlock."""

    def __init__(self, kv: KVManager):
        self._kv = kv

    def make_room(self, sequence: Sequence, count: int) -> Seat | None:
        return self._kv.reserve(sequence, sequence.num_launched + count)
