"""The attention kernel: items one after the other, their K/V blocks streaming through two buffers.

While a block is computed the next one is in flight, also where the next one belongs to the next item. An item's page
numbers are fetched into scalar memory while the item before it runs, so the page table may be of any size.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.ragged_paged_attention.mosaic_tpu.reading import View
from pallas_kernels.ragged_paged_attention.mosaic_tpu.softmax import Queries, Softmax
from pallas_kernels.ragged_paged_attention.mosaic_tpu.tuning import Tuning

ITEM = ("row", "place", "low", "end", "begin", "shift")
TOGETHER = 4


@dataclasses.dataclass(frozen=True)
class Sizes:
    """All that the kernel is compiled for, beside the shapes of its operands."""

    page_size: int
    heads: int  # K
    pieces: int  # J
    dtype: jnp.dtype  # of the pages, whatever carries them
    tuning: Tuning
    sliding_window: int | None
    soft_cap: float | None
    simulated: bool

    @property
    def stride(self) -> int:
        """Heads from one token to the next in a buffer: odd, so that a head's strided reads meet every bank of memory."""
        return self.heads | 1


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


class Traffic:
    """Queries in and results out, for items of one kind: queries two deep, results as deep as `results` is."""

    def __init__(self, source, queries, results, target, query_sems, result_sems, size):
        self.source, self.queries, self.results, self.target = source, queries, results, target
        self.query_sems, self.result_sems, self.size = query_sems, result_sems, size

    def _at(self, ref, place):
        return (
            ref.at[place]
            if self.size is None
            else ref.at[:, :, pl.ds(pl.multiple_of(place * self.size, self.size), self.size)]
        )

    def query(self, place, slot):
        """The copy of the queries at a place."""
        return pltpu.make_async_copy(self._at(self.source, place), self.queries.at[slot], self.query_sems.at[slot])

    def result(self, place, slot):
        """The copy of the results to a place."""
        return pltpu.make_async_copy(self.results.at[slot], self._at(self.target, place), self.result_sems.at[slot])


def kernel(sizes: Sizes, has_tiles: bool, *refs) -> None:
    """Body of the Pallas call; `refs` are those that `attention.py` lists."""
    left = iter(refs)
    take = lambda n: list(itertools.islice(left, n))
    (counts,), item = take(1), dict(zip(ITEM, take(len(ITEM)), strict=True))
    row_pages, kv_pages = take(2)
    kinds = 2 if has_tiles else 1
    sources, targets = take(kinds), take(kinds)
    numbers, buffers, page_sem, block_sems = take(4)
    fetch = Fetch(sizes, item, row_pages, kv_pages, numbers, buffers, page_sem, block_sems)
    traffic, softmax = [], []
    for kind in range(kinds):
        queries, results, query_sems, result_sems, top, total, acc = take(7)
        tile = sizes.tuning.tile if kind else None
        traffic.append(Traffic(sources[kind], queries, results, targets[kind], query_sems, result_sems, tile))
        softmax.append(Softmax(sizes, kind == 1, top, total, acc))
    _Schedule(sizes, counts, item, fetch, traffic, softmax).run()


class _Schedule:
    """Which item does what when."""

    def __init__(self, sizes, counts, item, fetch: Fetch, traffic: list[Traffic], softmax: list[Softmax]):
        self.sizes, self.item, self.fetch, self.traffic, self.softmax = sizes, item, fetch, traffic, softmax
        self.num_singles, self.num_items = counts[0], counts[1]

    def run(self) -> None:
        """All items."""

        @pl.when(self.num_items > 0)
        def _():
            self.fetch.page_numbers(0).start()
            self.open(0, 0)
            lax.fori_loop(0, self.num_items, self.one, jnp.int32(0))
            self.drain()

    def open(self, i, slot) -> None:
        """Set item i's first block and its queries going."""
        self.fetch.page_numbers(i).wait()
        self.fetch.start(i, self.fetch.blocks(i)[0], slot)
        self.by_kind(i, lambda kind: self.traffic[kind].query(self.item["place"][i], i & 1).start())

    def by_kind(self, i, do) -> None:
        """`do(kind)` for the kind that item i is of: 0 a single, 1 a tile."""
        if len(self.traffic) == 1:
            do(0)
        else:
            pl.when(i < self.num_singles)(lambda: do(0))
            pl.when(i >= self.num_singles)(lambda: do(1))

    def one(self, i, slot):
        """Item i, whose first block is in flight to `slot`; returns the slot of the next item's."""
        more = i + 1 < self.num_items
        pl.when(more)(lambda: self.fetch.page_numbers(i + 1).start())
        self.by_kind(i, lambda kind: self.begin(kind, i))
        first, last = self.fetch.blocks(i)

        def block(b, slot):
            pl.when(b + 1 < last)(lambda: self.fetch.start(i, b + 1, 1 - slot))
            pl.when((b + 1 == last) & more)(lambda: self.open(i + 1, 1 - slot))
            self.fetch.wait(i, b, slot)
            self.by_kind(i, lambda kind: self.fold(kind, i, b, slot))
            return 1 - slot

        slot = lax.fori_loop(first, last, block, slot)
        self.by_kind(i, lambda kind: self.finish(kind, i))
        return slot

    def begin(self, kind, i) -> None:
        """Have the queries there; a tile's first item resets its softmax."""
        place = self.item["place"]
        self.traffic[kind].query(place[i], i & 1).wait()
        opens = (i == self.num_singles) | (place[jnp.maximum(i - 1, 0)] != place[i]) if kind else True
        pl.when(opens)(self.softmax[kind].reset)

    def fold(self, kind, i, block, slot) -> None:
        """One block of K/V into the softmax of item i."""
        item = {name: self.item[name][i] for name in ITEM}
        queries = Queries(self.traffic[kind].queries.at[i & 1], item, self.sizes.tuning.tile if kind else None)
        start = block * self.sizes.tuning.fetch
        view = View(self.fetch.buffers, slot, start, self.sizes.dtype, self.sizes.simulated)
        self.softmax[kind].fold(queries, view)

    def finish(self, kind, i) -> None:
        """Send the results off; a tile's when its last item is done."""
        place, traffic = self.item["place"], self.traffic[kind]
        if kind == 0:
            slot, waits = i & 1, i >= 2
            closes = True
        else:
            slot, waits = 0, place[i] != place[self.num_singles]
            closes = (i + 1 == self.num_items) | (place[jnp.minimum(i + 1, self.num_items - 1)] != place[i])

        @pl.when(closes)
        def _():
            pl.when(waits)(lambda: traffic.result(place[i], slot).wait())  # the one before is as large
            self.softmax[kind].result(traffic.results.at[slot])
            traffic.result(place[i], slot).start()

    def drain(self) -> None:
        """Until all results have left."""
        singles = self.traffic[0]
        for back in (1, 2):
            pl.when(self.num_singles >= back)(lambda back=back: singles.result(0, (self.num_singles - back) & 1).wait())
        if len(self.traffic) == 2:
            pl.when(self.num_items > self.num_singles)(lambda: self.traffic[1].result(0, 0).wait())
