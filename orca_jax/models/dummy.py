"""Random weights for shapes that nobody can download, made on the device parameter by parameter."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, UInt32

from orca_jax.models.weights import Progress

SPREAD = 0.02  # standard deviation of the weights


def fill_randomly(model: nnx.Module, dtype: jnp.dtype, seed: int, progress: Progress) -> nnx.Module:
    """`model`, built without memory, with scales 1, biases 0 and everything else random; the same for the same seed."""
    graph, state = nnx.split(model)
    flat = nnx.to_flat_state(state)
    total = sum(variable.get_value().size for _, variable in flat) * jnp.dtype(dtype).itemsize
    filled, done = [], 0
    for i, (path, variable) in enumerate(flat):
        array = _make(path[-1], seed * 1_000_003 + i, variable.get_value().shape, dtype)
        filled.append((path, variable.replace(array.block_until_ready())))
        done += array.nbytes
        progress(done, total, ".".join(map(str, path)))
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _make(kind: str | int, stream: int, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    if kind == "scale":
        return jnp.ones(shape, dtype)
    if kind == "bias":
        return jnp.zeros(shape, dtype)
    start = _mixed(jnp.uint32(stream % 2**32))
    return _uniform(start, shape=shape, dtype=dtype)


@partial(jax.jit, static_argnames=("shape", "dtype"))
def _uniform(start: UInt32[Array, ""], *, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """Uniform numbers around 0 from hashed counters: many times cheaper than `jax.random`, and good enough here."""
    counters = lax.iota(jnp.uint32, math.prod(shape)) + start
    signed = lax.bitcast_convert_type(_mixed(counters), jnp.int32)
    return (signed.astype(jnp.float32) * (SPREAD * 3**0.5 / 2**31)).astype(dtype).reshape(shape)


def _mixed(x: UInt32[Array, "*n"]) -> UInt32[Array, "*n"]:
    """A bijection of 32-bit numbers that leaves neighbours unrelated: shifts and odd products, in turn."""
    for shift, factor in ((16, 0x9E3779B1), (15, 0x85EBCA77), (16, 1)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return x
