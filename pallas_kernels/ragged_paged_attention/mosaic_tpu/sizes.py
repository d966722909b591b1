"""What the attention kernel is compiled for, and the numbers that an item of work has."""

import dataclasses

import jax.numpy as jnp

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
    sm_scale: float
    soft_cap: float | None
    simulated: bool

    @property
    def stride(self) -> int:
        """Heads from one token to the next in a buffer: odd, so that a head's strided reads meet every bank of memory."""
        return self.heads | 1
