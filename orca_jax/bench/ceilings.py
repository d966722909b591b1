"""What the machine at hand can do at best: moving memory and multiplying, measured in the run that is judged by it."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Bytes per second of a large copy, read and written counted, and operations per second of a large bfloat16 product."""

    bytes_per_second: float
    flops_per_second: float

    def fraction(self, num_bytes: float, flops: float, seconds: float) -> float:
        """The share of the nearer ceiling that work of `num_bytes` and `flops` in `seconds` reaches."""
        return max(num_bytes / self.bytes_per_second, flops / self.flops_per_second) / seconds


def median_seconds(runs: Sequence[Callable[[], Any]], repeats: int) -> float:
    """Median of `repeats` synchronised calls, the `runs` (input sets) in turn, each called once before that counts."""
    for run in runs:
        jax.block_until_ready(run())
    times = []
    for i in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(runs[i % len(runs)]())
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def measure_ceilings(num_bytes: int = 2**32, width: int = 8192, repeats: int = 10) -> Ceilings:
    """Copy an array of `num_bytes`, and multiply two bfloat16 matrices of `width`."""
    source = jnp.ones(num_bytes // 4, jnp.float32)
    copy = jax.jit(lambda x, by: x + by)  # not an identity, which XLA would not run
    moved = 2 * source.nbytes / median_seconds([lambda: copy(source, 1.0)], repeats)
    source.delete()
    a, b = (jnp.full((width, width), value, jnp.bfloat16) for value in (0.5, 0.25))
    product = jax.jit(lambda a, b: lax.dot(a, b, preferred_element_type=jnp.float32).astype(jnp.bfloat16))
    return Ceilings(moved, 2 * width**3 / median_seconds([lambda: product(a, b)], repeats))
