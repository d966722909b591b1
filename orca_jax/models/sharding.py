"""One table from a parameter's logical axes to mesh axes; shardings are derived from it and written nowhere else.

Over n devices (the mesh's one axis, `tensor`) each owns K / n K/V heads with their query heads, F / n of the feed-forward
width and V / n of the vocabulary: the products into these are split by rows, those out of them by columns, whose partial
sums are added up by one all-reduce each. A vocabulary that n does not divide is kept whole on every device.
"""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from orca_jax.core.errors import ConfigError
from orca_jax.models.config import DecoderConfig

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


def tensor_mesh(devices: Sequence[jax.Device]) -> Mesh:
    """The mesh over which a step is split: one axis, `tensor`."""
    return Mesh(np.asarray(devices), (TENSOR,), axis_types=(AxisType.Auto,))


def rules_for(config: DecoderConfig, num_devices: int) -> Mapping[str, str | None]:
    """The table as it holds for a model on so many devices.

    Raises ConfigError where K/V heads or the feed-forward width cannot be shared out evenly: unlike a vocabulary, they are
    what tensor parallelism is for. K/V heads are not copied to serve more devices than there are of them.
    """
    for name, value in (("num_kv_heads", config.num_kv_heads), ("intermediate_size", config.intermediate_size)):
        if value % num_devices:
            fitting = [n for n in range(1, num_devices) if config.num_kv_heads % n == config.intermediate_size % n == 0]
            raise ConfigError(
                f"{name} = {value} cannot be shared out evenly over {num_devices} devices "
                f"(take {fitting[-1]} or fewer that divide it)"
            )
    whole = {"vocab": None} if config.vocab_size % num_devices else {}
    return {**RULES, **whole}


def partition_spec(axes: tuple[str, ...], rules: Mapping[str, str | None] = RULES) -> PartitionSpec:
    """The mesh axis of each logical axis. Raises ConfigError for an axis that the table does not know."""
    unknown = next((axis for axis in axes if axis not in rules), None)
    if unknown is not None:
        raise ConfigError(f"logical axis {unknown!r} has no rule; known: {', '.join(rules)}")
    return PartitionSpec(*(rules[axis] for axis in axes))


def partition_specs(
    model: nnx.Module, rules: Mapping[str, str | None] = RULES
) -> dict[tuple[str | int, ...], PartitionSpec]:
    """The spec of every parameter, by its path. Works on an abstract model, too."""
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {path: partition_spec(variable.get_metadata()["axes"], rules) for path, variable in flat}


def parameter_shardings(model: nnx.Module, config: DecoderConfig, mesh: Mesh) -> tuple[NamedSharding, ...]:
    """The sharding of every parameter, in the order of the leaves of the model's state. ConfigError as `rules_for`."""
    specs = partition_specs(model, rules_for(config, mesh.size))
    flat = nnx.to_flat_state(nnx.state(model))
    placed = [(path, variable.replace(NamedSharding(mesh, specs[tuple(path)]))) for path, variable in flat]
    return tuple(jax.tree.leaves(nnx.from_flat_state(placed)))


def split_by_vocabulary(x: Float[Array, "R V"], mesh: Mesh | None) -> Float[Array, "R V"]:
    """`x` with each device's share of the vocabulary on it, said to compilers that would gather it otherwise."""
    if mesh is None or x.shape[1] % mesh.size:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(None, RULES["vocab"])))


def heads_spec(axis: int) -> PartitionSpec:
    """The spec of an array whose axis `axis` counts heads and is the only one to be split: q, k, v, and pages."""
    return PartitionSpec(*(None,) * axis, RULES["kv_heads"])
