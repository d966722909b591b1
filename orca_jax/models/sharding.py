"""One table from a parameter's logical axes to mesh axes; shardings are derived from it and written nowhere else."""

from collections.abc import Mapping

from flax import nnx
from jax.sharding import PartitionSpec

from orca_jax.core.errors import ConfigError

TENSOR = "tensor"

RULES: Mapping[str, str | None] = {
    "vocab": TENSOR,  # embedding and head
    "kv_heads": TENSOR,  # rows of q, k and v together: a device owns whole groups
    "heads": TENSOR,  # columns of the product after attention, ordered by K/V head like its input
    "mlp": TENSOR,
    "embed": None,
    "group": None,
    "head_dim": None,
    "parts": None,
    "position": None,
    "layer": None,
}


def partition_spec(axes: tuple[str, ...], rules: Mapping[str, str | None] = RULES) -> PartitionSpec:
    """The mesh axis of each logical axis. Raises ConfigError for an axis that the table does not know."""
    unknown = next((axis for axis in axes if axis not in rules), None)
    if unknown is not None:
        raise ConfigError(f"logical axis {unknown!r} has no rule; known: {', '.join(rules)}")
    return PartitionSpec(*(rules[axis] for axis in axes))


def partition_specs(model: nnx.Module) -> dict[tuple[str | int, ...], PartitionSpec]:
    """The spec of every parameter, by its path. Works on an abstract model, too."""
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {path: partition_spec(variable.get_metadata()["axes"]) for path, variable in flat}
