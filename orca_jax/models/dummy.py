"""Random weights for shapes that nobody can download, made on the device parameter by parameter."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from orca_jax.models.weights import Progress

SPREAD = 0.02  # standard deviation of the weights


def fill_randomly(model: nnx.Module, dtype: jnp.dtype, seed: int, progress: Progress) -> nnx.Module:
    """`model`, built without memory, with scales 1, biases 0 and everything else random; the same for the same seed."""
    graph, state = nnx.split(model)
    flat = nnx.to_flat_state(state)
    total = sum(variable.get_value().size for _, variable in flat) * jnp.dtype(dtype).itemsize
    filled, done = [], 0
    for i, (path, variable) in enumerate(flat):
        array = _make(path[-1], jax.random.fold_in(jax.random.key(seed), i), variable.get_value().shape, dtype)
        filled.append((path, variable.replace(array.block_until_ready())))
        done += array.nbytes
        progress(done, total, ".".join(map(str, path)))
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _make(kind: str | int, key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    if kind == "scale":
        return jnp.ones(shape, dtype)
    if kind == "bias":
        return jnp.zeros(shape, dtype)
    return _uniform(key, shape=shape, dtype=dtype)


@partial(jax.jit, static_argnames=("shape", "dtype"))
def _uniform(key: Array, *, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    # uniform, not normal: nobody will miss the tails, and the inverse error function costs more than the bits
    bound = SPREAD * 3**0.5
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound).astype(dtype)
