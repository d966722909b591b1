"""Who holds which K/V memory. The device only ever sees the answer: a seat, which is a slot and a list of pages."""

from collections.abc import Iterable

import numpy as np

from orca_jax.core.errors import ConfigError, EngineError
from orca_jax.core.plan import Seat
from orca_jax.core.sequence import Sequence
from orca_jax.scheduling.pages import PageAllocator


class KVManager:
    """Seats sequences in `num_pages` pages of `page_size` tokens and `num_slots` rows of the device's tables.

    A sequence keeps its seat, the same object, until it needs more pages or is removed explicitly: nothing here is
    ever taken from a sequence behind the scheduler's back.
    """

    def __init__(self, num_pages: int, page_size: int, num_slots: int):
        for name, value in (("num_pages", num_pages), ("page_size", page_size), ("num_slots", num_slots)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}.")
        self.num_pages = num_pages
        self.page_size = page_size
        self.num_slots = num_slots
        self._pages = PageAllocator(num_pages)
        self._free_slots = list(range(num_slots - 1, -1, -1))
        self._seated: dict[Sequence, None] = {}

    @property
    def num_seated(self) -> int:
        return len(self._seated)

    @property
    def pages_reserved(self) -> int:
        return self.num_pages - self._pages.num_free

    @property
    def pages_used(self) -> int:
        """Pages that hold at least one position that was launched; the rest of the reserved ones wait for theirs."""
        return sum(self.pages_for(sequence.num_launched) for sequence in self._seated)

    def pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_size)

    def reserve(self, sequence: Sequence, num_tokens: int) -> Seat | None:
        """The sequence's seat, with room for `num_tokens` in all. Takes all it needs, or nothing and gives None."""
        seat = sequence.seat
        if seat is None:
            return self._new_seat(sequence, self.pages_for(num_tokens))
        missing = self.pages_for(num_tokens) - len(seat.pages)
        if missing <= 0:
            return seat
        more = self._pages.take(missing)
        if more is None:
            return None
        sequence.seat = Seat(seat.slot, np.concatenate([seat.pages, more]), seat.sampling)
        return sequence.seat

    def release(self, sequence: Sequence) -> None:
        """Remove `sequence`: its pages and its slot are free from now on. Nothing happens where it has no seat.

        Rows of it may still be in flight. Whatever is launched later runs after them, so the next owner can be seated
        at once.
        """
        if sequence.seat is None:
            return
        self._pages.give_back(sequence.seat.pages)
        self._free_slots.append(sequence.seat.slot)
        del self._seated[sequence]
        sequence.seat = None

    def _new_seat(self, sequence: Sequence, num_pages: int) -> Seat | None:
        pages = self._pages.take(num_pages) if self._free_slots else None
        if pages is None:
            return None
        sequence.seat = Seat(self._free_slots.pop(), pages, sequence.sampling())
        self._seated[sequence] = None
        return sequence.seat

    def check(self, sequences: Iterable[Sequence]) -> None:
        """Raise EngineError unless the seated ones of all live `sequences` hold what is not free, each its own."""
        self._pages.check()
        seated = [sequence for sequence in sequences if sequence.seat is not None]
        if set(seated) != set(self._seated):
            raise EngineError(f"{len(self._seated)} sequences hold a seat, but {len(seated)} live ones say so")
        seats = [sequence.seat for sequence in seated if sequence.seat is not None]
        held = np.concatenate([np.zeros(0, np.int32), *(seat.pages for seat in seats)])
        if len(np.unique(held)) != len(held) or len(held) != self.pages_reserved or self._pages.any_free(held):
            raise EngineError(
                f"seats name {len(held)} pages, {self.pages_reserved} are reserved; or some are shared or free"
            )
        slots = sorted([seat.slot for seat in seats] + self._free_slots)
        if slots != list(range(self.num_slots)):
            raise EngineError(f"slots held and free must be 0 to {self.num_slots - 1}, each once, got {slots}")
        for sequence in seated:
            room = len(sequence.seat.pages) * self.page_size if sequence.seat is not None else 0
            if sequence.num_launched > room:
                raise EngineError(f"{sequence.key} wrote {sequence.num_launched} tokens, but has room for {room}")

    def statistics(self) -> dict[str, float | int | str]:
        return {
            "num_pages": self.num_pages,
            "page_size": self.page_size,
            "pages_reserved": self.pages_reserved,
            "pages_used": self.pages_used,
            "num_slots": self.num_slots,
            "slots_used": self.num_seated,
        }
