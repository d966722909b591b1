"""The matrix products of one iteration and nothing else: the floor under its time on this backend.

Each candidate is one jitted program with all products of the step, one after the other, for one layout of the weights.
What lies between two products is only what makes the second wait for the first.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from orca_jax.models.config import DecoderConfig

CONTRACTED = {"out_in": 1, "in_out": 0}
PRECISIONS = {"default": lax.Precision.DEFAULT, "highest": lax.Precision.HIGHEST}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to write the products: the weights' layout and the precision asked of XLA. Results are float32."""

    layout: str
    precision: str

    @property
    def name(self) -> str:
        return f"{self.layout}, {self.precision}"


def candidates(dtype: str) -> list[Candidate]:
    """What is tried. A lower precision means nothing for operands of 16 bits."""
    precisions = ("highest", "default") if dtype == "float32" else ("default",)
    return [Candidate(layout, precision) for layout in CONTRACTED for precision in precisions]


def layer_shapes(c: DecoderConfig) -> list[tuple[int, int]]:
    """`(out, in)` of a layer's products, in order: q, k and v fused, attention's output, gate and up fused, down."""
    heads = c.num_heads * c.head_dim
    return [
        (heads + 2 * c.num_kv_heads * c.head_dim, c.hidden_size), (c.hidden_size, heads),
        ((2 if c.gated else 1) * c.intermediate_size, c.hidden_size), (c.hidden_size, c.intermediate_size),
    ]  # fmt: skip


def make_weights(c: DecoderConfig, dtype: str, layout: str) -> list[Array]:
    """Every weight of the step, the head last, in one layout."""
    shapes = [*layer_shapes(c) * c.num_layers, (c.vocab_size, c.hidden_size)]
    stored = [shape if layout == "out_in" else shape[::-1] for shape in shapes]
    rng = np.random.default_rng(0)
    return [jnp.asarray(0.02 * rng.standard_normal(shape, np.float32)).astype(dtype) for shape in stored]


def product_chain(candidate: Candidate, num_rows: int) -> Callable[[Array, list[Array]], Array]:
    """`(x [T, D], weights) -> logits [R, V]`: every product of the step, the head for `num_rows` of the tokens."""
    axis, precision = CONTRACTED[candidate.layout], PRECISIONS[candidate.precision]

    def chain(x: Float[Array, "T D"], weights: list[Array]) -> Float[Array, "R V"]:
        y = x
        for weight in weights[:-1]:
            y = multiply(fitted(y, weight.shape[axis]), weight)
        return multiply(fitted(y, weights[-1].shape[axis])[:num_rows], weights[-1])

    def fitted(y: Float[Array, "T n"], width: int) -> Float[Array, "T width"]:
        """Cut or repeated to the width of the next product, and kept away from zero."""
        repeats = -(-width // y.shape[1])
        return 1.0 + (y if repeats == 1 else jnp.tile(y, (1, repeats)))[:, :width]

    def multiply(x: Float[Array, "T i"], weight: Array) -> Float[Array, "T o"]:
        return lax.dot_general(
            x.astype(weight.dtype), weight, (((1,), (axis,)), ((), ())), precision=precision,
            preferred_element_type=jnp.float32,
        )  # fmt: skip

    return chain


def compile_chain(
    c: DecoderConfig, dtype: str, candidate: Candidate, num_tokens: int, num_rows: int
) -> Callable[[], Array]:
    """Run once so that nothing is left to prepare; each call then runs all products and returns without waiting."""
    weights = make_weights(c, dtype, candidate.layout)
    x = jnp.ones((num_tokens, c.hidden_size))
    compiled = jax.jit(product_chain(candidate, num_rows)).lower(x, weights).compile()
    jax.block_until_ready(compiled(x, weights))
    return lambda: compiled(x, weights)
