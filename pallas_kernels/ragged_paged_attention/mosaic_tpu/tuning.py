"""Sizes of the TPU kernel's blocks: a table of those that were found, and a rule for everything else.

Four sizes are apart because different things bound them: a fetch hides the latency of its copies and is bounded by memory
on the chip; what is computed at a time is bounded by registers; a query tile trades reading pages again against masked work.
"""

import dataclasses

from pallas_kernels.ragged_paged_attention.layout import Heads
from pallas_kernels.ragged_paged_attention.mosaic_tpu.pages import LANES, pieces

MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Tuning:
    """Sizes in tokens. They change speed, and in the last bits the order of the sums.

    fetch: K/V tokens of one round of copies (whole pages, at least one). single_block, tile_block: K/V tokens computed at
    a time for a row with one query, and for a tile of queries. tile: queries in a tile, a multiple of 16.
    """

    fetch: int
    single_block: int
    tile: int
    tile_block: int

    def check(self, page_size: int) -> None:
        """ValueError for sizes that do not fit into each other."""
        for name, value, unit, of in (
            ("fetch", self.fetch, page_size, "the page size"),
            ("fetch", self.fetch, self.single_block, "single_block"),
            ("fetch", self.fetch, self.tile_block, "tile_block"),
            ("tile", self.tile, 16, "the rows of a memory tile"),
        ):
            if value % unit:
                raise ValueError(f"tuning.{name} = {value}, but it has to be a multiple of {unit}, {of}")


# (generation, C, G, page size): entries that a measurement on the hardware has earned. None yet: the rule is all there is.
TABLE: dict[tuple[str, int, int, int], Tuning] = {}

# Bytes that the two fetch buffers together may take, of the 64 MiB and more that these generations have on the chip.
FETCH_BUDGET = 12 * MIB
TILE_BUDGET = 16 * MIB  # that a tile's running softmax may take, beside its queries and results, which are half of it


def choose(generation: str, heads: Heads, page_size: int, itemsize: int) -> Tuning:
    """The table's entry, which is for 16-bit pages, or the rule's answer. `itemsize`: bytes of a number in the pages."""
    entry = TABLE.get((generation, heads.dim, heads.group, page_size)) if itemsize == 2 else None
    return entry or rule(generation, heads, page_size, itemsize)


def rule(generation: str, heads: Heads, page_size: int, itemsize: int) -> Tuning:
    """Sizes from what a token weighs and a query's group.

    A fetch of 1 MiB takes about as long as its latency on all generations, and more than 2,048 tokens are rarely there.
    Blocks of 256 tokens waste little behind a row's end and are faster than memory on v5e to v6e; tpu7x needs 512. Tiles
    have about 512 rows of scores, where what each row costs whatever the block is fades.
    """
    token = 2 * itemsize * (heads.num_kv | 1) * pieces(heads.dim) * LANES
    fetch = page_size
    while 2 * fetch <= 2048 and (2 * fetch <= 512 or 2 * fetch * token <= MIB) and 4 * fetch * token <= FETCH_BUDGET:
        fetch *= 2
    state = 4 * heads.num_q * (pieces(heads.dim) + 2) * LANES
    tile = 128
    while tile > 16 and (tile * heads.group > 512 or tile * state > TILE_BUDGET):
        tile //= 2
    return Tuning(
        fetch=fetch,
        single_block=_part(fetch, 512 if generation == "tpu7x" else 256),
        tile=tile,
        tile_block=_part(fetch, 512),
    )


def _part(fetch: int, wish: int) -> int:
    """A block of `wish` tokens at most that divides a fetch, or the smallest there is."""
    while fetch > wish and fetch % 2 == 0:
        fetch //= 2
    return fetch
