"""Hardware that is described instead of attached, as tests of kernels want it: a mesh, and arrays on it without memory."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from orca_jax.models.sharding import tensor_mesh
from orca_jax.plan.hardware import HARDWARE
from orca_jax.plan.topologies import described_devices, missing_compiler

TPUS = tuple(name for name, each in HARDWARE.items() if each.platform == "tpu")


def missing(name: str) -> str | None:
    """Why nothing can be compiled for that hardware here; None where it can."""
    return missing_compiler(HARDWARE[name])


@functools.cache
def mesh(name: str) -> Mesh:
    """One described device."""
    return tensor_mesh(described_devices(name, 1))


def array(name: str, shape: tuple[int, ...], dtype=jnp.int32) -> jax.ShapeDtypeStruct:
    """An array on that device."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh(name), PartitionSpec()))
