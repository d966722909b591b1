"""The step in two programs, for iterations in which a grammar says what some rows may choose.

    model half:    (parameters, cache, history, packed) -> (cache, history, hidden, logits)
    sampling half: (logits, history, constraints, columns, mask) -> (history, packed output)

The host fills the masks while the first half runs: they follow from tokens that the iteration before has brought. The
second half knows rows only, so that one for each number of rows serves all buckets.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from orca_jax.execution.constraints import Constraints
from orca_jax.execution.packing import rows_alone, unpack
from orca_jax.execution.sampler import sample
from orca_jax.execution.step import StepShape, pack_output, remember, run_model


def make_model_half(graph: nnx.GraphDef, treedef: Any, shape: StepShape) -> Callable[..., tuple[Any, ...]]:
    """The first half for one bucket, ready to be jitted with `donate_argnums=(1, 2)`."""

    def model_half(
        parameters: tuple[Array, ...], cache: list[Array], history: Int[Array, "slots N"], packed: Int[Array, " n"]
    ) -> tuple[list[Array], Array, Array, Array]:
        model = nnx.merge(graph, jax.tree.unflatten(treedef, parameters))
        return run_model(model, unpack(packed, shape.bucket, shape.pages_per_row), cache, history, shape.attention)

    return model_half


def make_sampling_half(mesh: Mesh | None) -> Callable[..., tuple[Array, Array]]:
    """The second half, ready to be jitted with `donate_argnums=(1,)`."""

    def sampling_half(
        logits: Float[Array, "R V"],
        history: Int[Array, "slots N"],
        constraints: Constraints,
        columns: Int[Array, "R C"],
        mask: Int[Array, "R W"],
    ) -> tuple[Array, Array]:
        rows = rows_alone(columns)
        with jax.named_scope("sample"):
            sampled = sample(logits, rows, history, constraints, mesh, mask)
            return remember(sampled.token, rows, history), pack_output(sampled)

    return sampling_half
