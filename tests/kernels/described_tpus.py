"""TPUs that are described instead of attached: libtpu compiles for them on any machine that has it installed."""

import functools
import importlib.util
import os

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# the smallest slice of each generation that can be described
SLICES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "tpu7x": "tpu7x:2x2x1"}


def why_not() -> str | None:
    """Why nothing can be compiled for TPUs here; None where it can."""
    return None if importlib.util.find_spec("libtpu") else "libtpu is not installed (pip install 'jax[tpu]')"


@functools.cache
def mesh(generation: str) -> Mesh:
    """One described TPU of a generation."""
    # libtpu asks the network for the machine it is on, unless these say that there is nothing to ask
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault(
        "ALLOW_MULTIPLE_LIBTPU_LOAD", "1"
    )  # nobody's TPU is taken: others may compile at the same time
    topology = topologies.get_topology_desc(SLICES[generation], platform="tpu")
    return Mesh(topology.devices[:1], ("one",))


def array(generation: str, shape: tuple[int, ...], dtype=jnp.int32) -> jax.ShapeDtypeStruct:
    """An array on that TPU."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh(generation), PartitionSpec()))
