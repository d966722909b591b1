"""What the machine at hand can do at best: moving memory and multiplying, measured in the run that is judged by it."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Bytes per second of a large copy, read and written counted, and operations per second of a large bfloat16 product."""

    bytes_per_second: float
    flops_per_second: float

    def fraction(self, num_bytes: float, flops: float, seconds: float) -> float:
        """The share of the nearer ceiling that work of `num_bytes` and `flops` in `seconds` reaches."""
        return max(num_bytes / self.bytes_per_second, flops / self.flops_per_second) / seconds


LONG_ENOUGH = 5e-3  # seconds between two looks at the clock, so that dispatching and waiting do not count


def median_seconds(runs: Sequence[Callable[[], Any]], repeats: int) -> float:
    """Median seconds of a call over `repeats` synchronised lots, the `runs` (input sets) in turn.

    A lot has as many calls as fill `LONG_ENOUGH`; each run is called twice before that counts.
    """
    for run in runs:
        jax.block_until_ready(run())
    began = time.perf_counter()
    for run in runs:
        jax.block_until_ready(run())
    alone = (time.perf_counter() - began) / len(runs)
    calls = max(1, math.ceil(LONG_ENOUGH / max(alone, 1e-9)))
    times = []
    for i in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready([runs[(i + j) % len(runs)]() for j in range(calls)])
        times.append((time.perf_counter() - began) / calls)
    return statistics.median(times)


def measure_ceilings(num_bytes: int = 2**32, width: int = 8192, repeats: int = 10) -> Ceilings:
    """Copy an array of `num_bytes`, and multiply two bfloat16 matrices of `width`."""
    source = noise(0, (num_bytes // 4,), jnp.float32)
    copy = jax.jit(lambda x, by: x + by)  # not an identity, which XLA would not run
    moved = 2 * source.nbytes / median_seconds([lambda: copy(source, 1.0)], repeats)
    source.delete()
    a, b = (noise(i, (width, width), jnp.bfloat16) for i in range(2))
    product = jax.jit(lambda a, b: lax.dot(a, b, preferred_element_type=jnp.float32).astype(jnp.bfloat16))
    return Ceilings(moved, 2 * width**3 / median_seconds([lambda: product(a, b)], repeats))


@partial(jax.jit, static_argnums=(1, 2))
def noise(seed: int, shape: tuple[int, ...], dtype: Any) -> Array:
    """Random numbers: a device's clock, and so its speed, depends on what it moves and multiplies."""
    return jax.random.normal(jax.random.key(seed), shape, dtype)
