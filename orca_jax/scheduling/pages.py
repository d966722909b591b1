"""Fixed-size pages of K/V memory: the paper's slots, paged so that nothing has to be contiguous."""

import numpy as np

from orca_jax.core.errors import EngineError


class PageAllocator:
    """Hands out pages and takes them back. Knows nothing about sequences.

    Deterministic: what was given back last is handed out first, so a recorded run finds the same pages again.
    """

    def __init__(self, num_pages: int):
        self.num_pages = num_pages
        self.num_free = num_pages
        self._stack = np.arange(num_pages - 1, -1, -1, dtype=np.int32)  # its first `num_free` entries are free
        self._is_free = np.ones(num_pages, dtype=bool)

    def take(self, count: int) -> np.ndarray | None:
        """`count` pages as i32[count], or None and no change at all where so many are not free."""
        if count > self.num_free:
            return None
        top = self.num_free
        self.num_free -= count
        pages = self._stack[self.num_free : top][::-1].copy()
        self._is_free[pages] = False
        return pages

    def give_back(self, pages: np.ndarray) -> None:
        """Make `pages` i32[p] free again. Raises EngineError, and does nothing, where one is free or named twice."""
        if self._is_free[pages].any() or len(set(pages.tolist())) != len(pages):
            raise EngineError(f"pages {pages.tolist()} were given back, but some are free already or named twice")
        self._stack[self.num_free : self.num_free + len(pages)] = pages[::-1]
        self.num_free += len(pages)
        self._is_free[pages] = True

    def any_free(self, pages: np.ndarray) -> bool:
        return bool(self._is_free[pages].any())

    def check(self) -> None:
        """Raise EngineError unless every page is either free, once, or handed out."""
        on_stack = np.zeros(self.num_pages, dtype=bool)
        on_stack[self._stack[: self.num_free]] = True
        distinct = int(on_stack.sum())
        if distinct != self.num_free or not np.array_equal(on_stack, self._is_free):
            marked = int(self._is_free.sum())
            raise EngineError(f"{self.num_free} free pages, but {distinct} distinct on the stack, {marked} marked free")
