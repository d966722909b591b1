"""K/V blocks on their way from a row's pages to one of two buffers, and the page numbers that say where they are.

Each page is a copy of its own. An item's page numbers are fetched into scalar memory while the item before it runs, so the
page table may be of any size.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.ragged_paged_attention.mosaic_tpu.sizes import Sizes

TOGETHER = 4


class Fetch:
    """The copies of K/V blocks and of the page numbers that they need."""

    def __init__(self, sizes: Sizes, item, row_pages, kv_pages, numbers, buffers, page_sem, block_sems):
        self.sizes, self.item = sizes, item
        self.row_pages, self.kv_pages, self.numbers, self.buffers = row_pages, kv_pages, numbers, buffers
        self.page_sem, self.block_sems = page_sem, block_sems
        self.per_block = sizes.tuning.fetch // sizes.page_size

    def blocks(self, i) -> tuple[jax.Array, jax.Array]:
        """First block of item i, and the one behind its last."""
        fetch = self.sizes.tuning.fetch
        return lax.div(self.item["low"][i], fetch), lax.div(self.item["end"][i] + fetch - 1, fetch)

    def page_numbers(self, i):
        """The copy of the page numbers of item i's row."""
        return pltpu.make_async_copy(self.row_pages.at[self.item["row"][i]], self.numbers.at[i & 1], self.page_sem)

    def start(self, i, block, slot) -> None:
        """Set the copies of a block's pages going; item i's page numbers are there."""
        first, last = self._pages(i, block)

        def one(page) -> None:
            number = self.numbers[i & 1, 0, page]
            to = self._buffer(slot, (page - block * self.per_block) * self.sizes.page_size, self.sizes.page_size)
            pltpu.make_async_copy(self.kv_pages.at[number], to, self.block_sems.at[slot]).start()

        def some(n, _):  # a page's number takes a while to read: several at a time wait together
            for j in range(TOGETHER):
                one(first + n * TOGETHER + j)
            return 0

        def rest(page, _):
            one(page)
            return 0

        whole = lax.div(last - first, TOGETHER)
        lax.fori_loop(0, whole, some, 0)
        lax.fori_loop(first + whole * TOGETHER, last, rest, 0)

    def wait(self, i, block, slot) -> None:
        """Until the copies of a block have arrived: one wait for all of a whole block's bytes, or one for each page."""
        first, last = self._pages(i, block)
        arrived = lambda size: pltpu.make_async_copy(
            self._buffer(slot, 0, size), self._buffer(slot, 0, size), self.block_sems.at[slot]
        ).wait()
        whole = last - first == self.per_block
        pl.when(whole)(lambda: arrived(self.sizes.tuning.fetch))

        @pl.when(jnp.logical_not(whole))
        def _():
            def one(page, _):
                arrived(self.sizes.page_size)
                return 0

            lax.fori_loop(first, last, one, 0)

    def _pages(self, i, block) -> tuple[jax.Array, jax.Array]:
        """First page of a block that item i sees, and the one behind its last."""
        size, per = self.sizes.page_size, self.per_block
        first = jnp.maximum(block * per, lax.div(self.item["low"][i], size))
        return first, jnp.minimum((block + 1) * per, lax.div(self.item["end"][i] + size - 1, size))

    def _buffer(self, slot, token, size: int):
        """Where some tokens of a block go; the buffers' heads are padded, those of the pages are not."""
        return self.buffers.at[slot, pl.ds(token, size), pl.ds(0, self.sizes.heads)]
