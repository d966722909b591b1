"""The attention kernel: items one after the other, their K/V blocks streaming through two buffers.

While a block is computed the next one is in flight, also where the next one belongs to the next item. An item's page
numbers are fetched into scalar memory while the item before it runs, so the page table may be of any size.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.ragged_paged_attention.mosaic_tpu.softmax import Queries, Softmax, View
from pallas_kernels.ragged_paged_attention.mosaic_tpu.tuning import Tuning

ITEM = ("row", "place", "low", "end", "begin", "shift")


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


class Fetch:
    """The copies of K/V blocks and of the page numbers that they need."""

    def __init__(self, sizes: Sizes, item, row_pages, kv_pages, numbers, buffers, page_sem, block_sems):
        self.sizes, self.item = sizes, item
        self.row_pages, self.kv_pages, self.numbers, self.buffers = row_pages, kv_pages, numbers, buffers
        self.page_sem, self.block_sems = page_sem, block_sems

    def blocks(self, i) -> tuple[jax.Array, jax.Array]:
        """First block of item i, and the one behind its last."""
        fetch = self.sizes.tuning.fetch
        return self.item["low"][i] // fetch, pl.cdiv(self.item["end"][i], fetch)

    def page_numbers(self, i):
        """The copy of the page numbers of item i's row."""
        return pltpu.make_async_copy(self.row_pages.at[self.item["row"][i]], self.numbers.at[i % 2], self.page_sem)

    def start(self, i, block, slot) -> None:
        """Set the copies of a block's pages going; item i's page numbers are there."""
        self._each_page(i, block, slot, lambda copy: copy.start())

    def wait(self, i, block, slot) -> None:
        """Until the copies of a block have arrived."""
        self._each_page(i, block, slot, lambda copy: copy.wait())

    def _each_page(self, i, block, slot, do) -> None:
        size, per = self.sizes.page_size, self.sizes.tuning.fetch // self.sizes.page_size
        first = jnp.maximum(block * per, self.item["low"][i] // size)
        last = jnp.minimum((block + 1) * per, pl.cdiv(self.item["end"][i], size))

        def one(page, _):
            to = self.buffers.at[slot, pl.ds((page - block * per) * size, size)]
            do(pltpu.make_async_copy(self.kv_pages.at[self.numbers[i % 2, 0, page]], to, self.block_sems.at[slot]))
            return 0

        lax.fori_loop(first, last, one, 0)


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
    refs = iter(refs)
    counts, item = next(refs), {name: next(refs) for name in ITEM}
    take = lambda n: [next(refs) for _ in range(n)]
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
        self.by_kind(i, lambda kind: self.traffic[kind].query(self.item["place"][i], i % 2).start())

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
        self.traffic[kind].query(place[i], i % 2).wait()
        opens = (i == self.num_singles) | (place[jnp.maximum(i - 1, 0)] != place[i]) if kind else True
        pl.when(opens)(self.softmax[kind].reset)

    def fold(self, kind, i, block, slot) -> None:
        """One block of K/V into the softmax of item i."""
        item = {name: self.item[name][i] for name in ITEM}
        queries = Queries(self.traffic[kind].queries.at[i % 2], item, self.sizes.tuning.tile if kind else None)
        self.softmax[kind].fold(queries, View(self.fetch.buffers, slot, block * self.sizes.tuning.fetch))

    def finish(self, kind, i) -> None:
        """Send the results off; a tile's when its last item is done."""
        place, traffic = self.item["place"], self.traffic[kind]
        if kind == 0:
            slot, waits = i % 2, i >= 2
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
            pl.when(self.num_singles >= back)(lambda back=back: singles.result(0, (self.num_singles - back) % 2).wait())
        if len(self.traffic) == 2:
            pl.when(self.num_items > self.num_singles)(lambda: self.traffic[1].result(0, 0).wait())
