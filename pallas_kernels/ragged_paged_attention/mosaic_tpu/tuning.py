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


# (generation, C, G, page size): entries that a measurement on the hardware has earned. None yet: the rule is all there is.
TABLE: dict[tuple[str, int, int, int], Tuning] = {}

# Bytes on the chip that the two fetch buffers together may take, of the 16 MiB a kernel has anywhere.
FETCH_BUDGET = {"v5e": 8 * MIB, "v5p": 8 * MIB, "v6e": 8 * MIB, "tpu7x": 8 * MIB}


def choose(generation: str, heads: Heads, page_size: int, itemsize: int = 2) -> Tuning:
    """The table's entry, or the rule's answer."""
    found = TABLE.get((generation, heads.dim, heads.group, page_size))
    return found or rule(generation, heads, page_size, itemsize)


def rule(generation: str, heads: Heads, page_size: int, itemsize: int = 2) -> Tuning:
    """As many tokens in flight as the budget holds (512 hide the latency of a page's copy), tiles of about 512 rows."""
    token = 2 * heads.num_kv * pieces(heads.dim) * LANES * itemsize
    fetch = page_size
    while 2 * fetch <= 512 and 2 * (2 * fetch) * token <= FETCH_BUDGET.get(generation, 8 * MIB):
        fetch *= 2
    tile = 128
    while tile > 16 and tile * heads.group > 512:
        tile //= 2
    return Tuning(fetch=fetch, single_block=fetch, tile=tile, tile_block=min(fetch, 256))
