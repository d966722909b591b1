"""The attention kernel: items one after the other, their K/V blocks streaming through two buffers.

While a block is computed the next one is in flight, also where the next one belongs to the next item. There is no grid:
the loop's bounds are the real numbers of items and blocks, so padding costs nothing.
"""

import itertools

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.ragged_paged_attention.mosaic_tpu.fetch import Fetch
from pallas_kernels.ragged_paged_attention.mosaic_tpu.reading import View
from pallas_kernels.ragged_paged_attention.mosaic_tpu.sizes import ITEM, Sizes
from pallas_kernels.ragged_paged_attention.mosaic_tpu.softmax import Queries, Softmax


class Traffic:
    """Queries in and results out, for items of one kind: queries two deep, results as deep as `results` is."""

    def __init__(self, source, queries, results, target, query_sems, result_sems, size):
        self.source, self.queries, self.results, self.target = source, queries, results, target
        self.query_sems, self.result_sems, self.size = query_sems, result_sems, size

    def _at(self, ref, place):
        if self.size is None:
            return ref.at[place]
        return ref.at[:, :, pl.ds(pl.multiple_of(place * self.size, self.size), self.size)]

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
