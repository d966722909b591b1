"""A machine without accelerators may still have their compilers, to plan for hardware that is elsewhere (the dev extra).

JAX would ask each of them for devices at start, and they answer with pages of complaints. So where JAX has not been told
what to use and there is certainly nothing but a CPU, it is told so.
"""

import importlib.util
import sys
from collections.abc import MutableMapping
from pathlib import Path

COMPILERS = ("libtpu", "jax_cuda13_plugin")
NODES = ("accel*", "vfio/[0-9]*", "nvidia[0-9]*", "nvidiactl", "nvhost*", "nvmap", "dxg", "kfd")
"""What Linux calls TPUs, NVIDIA's GPUs (on boards and under Windows, too) and AMD's, below /dev."""


def spare_compilers(environment: MutableMapping[str, str], devices: Path = Path("/dev")) -> None:
    """Set `JAX_PLATFORMS` to cpu, before jax is imported, where it is not set and only compilers could answer."""
    if "JAX_PLATFORMS" in environment or sys.platform != "linux":
        return
    if any(any(devices.glob(node)) for node in NODES):
        return
    if any(importlib.util.find_spec(name) for name in COMPILERS):
        environment["JAX_PLATFORMS"] = "cpu"
