"""What is called differently in the versions of JAX that the Hopper kernels run under, in one place."""

from typing import Any

import jax
from jax.experimental.pallas import mosaic_gpu as plgpu

HAS_STORE = jax.__version_info__ >= (0, 12)


def store(ref: Any, value: jax.Array) -> None:
    """Write registers to global memory, as their layout has them."""
    if HAS_STORE:
        plgpu.store(ref, value, optimized=False)
    else:  # an assignment is that store (and a read of what was there, which the compiler drops)
        ref[...] = value
