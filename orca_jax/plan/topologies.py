"""Devices that are described instead of attached: good for compiling, for nothing else.

The compilers are JAX's own plug-ins. JAX finds them when it starts, so a process that plans runs with `JAX_PLATFORMS=cpu`,
which keeps them from looking for hardware. libtpu asks a metadata server for more, unless the process has been started with
`TPU_SKIP_MDS_QUERY=1`, `TPU_ACCELERATOR_TYPE=v5litepod-8` and `TPU_WORKER_HOSTNAMES=localhost` (any type will do); and it
is loaded by one process of a machine at a time, unless there is `ALLOW_MULTIPLE_LIBTPU_LOAD=1`. The environment belongs to
whoever starts the process: nothing here reads or sets it.
"""

import importlib.util
import shutil
from pathlib import Path

import jax
from jax.experimental import topologies

from orca_jax.core.errors import ConfigError
from orca_jax.plan.hardware import Hardware, find_hardware


class MissingCompilerError(ConfigError):
    """The compiler for the hardware is not installed; the text names the package."""


def described_devices(name: str, num_devices: int) -> list[jax.Device]:
    """Devices of a slice of `num_devices`. Raises ConfigError for an unknown one, MissingCompilerError."""
    hardware = find_hardware(name, num_devices)
    missing = missing_compiler(hardware)
    if missing is not None:
        raise MissingCompilerError(missing)
    slice_name = hardware.slices[num_devices]
    if hardware.platform == "tpu":
        # a slice of one chip is less than the host that libtpu before 0.0.50 expects
        host = {"chips_per_host_bounds": (1, 1, 1)} if num_devices == 1 else {}
        return topologies.get_topology_desc(slice_name, platform="tpu", **host).devices[:num_devices]
    jax.devices()  # plug-ins are registered by the first who asks for devices
    return topologies.get_topology_desc(
        slice_name, platform="cuda", topology=slice_name, target_config=hardware.target_config
    ).devices[:num_devices]


def missing_compiler(hardware: Hardware) -> str | None:
    """Why nothing can be compiled for this hardware here, and what to install; None where all is there."""
    if hardware.platform == "tpu":
        packages = {} if importlib.util.find_spec("libtpu") else {"libtpu": "libtpu"}
    else:
        packages = (
            {} if importlib.util.find_spec("jax_cuda13_plugin") else {"XLA's": f"jax-cuda13-plugin=={jax.__version__}"}
        )
        packages |= {} if has_ptxas() else {"ptxas": "nvidia-cuda-nvcc"}
    if not packages:
        return None
    return (
        f"nothing can be compiled for {hardware.name} here: {' and '.join(packages)} not found "
        f"(pip install {' '.join(packages.values())}; all of them come with orca-jax[dev] on x86-64 Linux)"
    )


def has_ptxas() -> bool:
    """Whether XLA will find NVIDIA's assembler: in its package, or on the path."""
    spec = importlib.util.find_spec("nvidia")
    folders = (spec.submodule_search_locations or ()) if spec else ()
    return any(any(Path(folder).glob("*/bin/ptxas")) for folder in folders) or shutil.which("ptxas") is not None
