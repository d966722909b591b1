"""Hardware that need not be there: what it is called, how much memory a device of it has, and where a number comes from.

TPU figures are the makers' (https://cloud.google.com/tpu/docs/system-architecture-tpu-vm and the page of each version,
"HBM capacity" per chip); GPU figures are what the driver reports, from the target configurations beside this file.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Literal

from orca_jax.core.errors import ConfigError, nearest

GiB = 2**30


@dataclass(frozen=True)
class Hardware:
    """A kind of device. `slices` has the compiler's name of so many devices that are connected with each other."""

    name: str
    platform: Literal["tpu", "cuda"]
    slices: dict[int, str]
    hbm: int | None = None  # bytes per device; None: as the target configuration says

    @cached_property
    def target_config(self) -> str | None:
        """What XLA's GPU compiler has to know of a GPU that it cannot ask (a text proto); None for a TPU."""
        if self.platform == "tpu":
            return None
        return (resources.files("orca_jax.plan") / f"{self.name}.textproto").read_text(encoding="utf-8")

    @property
    def memory_bytes(self) -> int:
        """Memory of one device, before the compiler and the runtime have taken their part."""
        if self.hbm is not None:
            return self.hbm
        found = re.search(r"device_memory_size: (\d+)", self.target_config or "")
        if found is None:
            raise ConfigError(f"the target configuration of {self.name} names no device_memory_size")
        return int(found[1])


GPU_SLICES = {1: "1x1x1", 8: "1x1x8"}  # slices x hosts x devices
HARDWARE = {
    each.name: each
    for each in (
        Hardware("v5e", "tpu", {1: "v5e:1x1", 8: "v5e:2x4"}, 16 * GiB),
        Hardware("v5p", "tpu", {1: "v5p:1x1x1", 8: "v5p:2x2x2"}, 95 * GiB),
        Hardware("v6e", "tpu", {1: "v6e:1x1", 8: "v6e:2x4"}, 32 * GiB),
        # a chip has 192 GiB and two cores, each a device of its own
        Hardware("tpu7x", "tpu", {1: "tpu7x:1x1x1", 8: "tpu7x:2x2x1"}, 96 * GiB),
        Hardware("h100", "cuda", GPU_SLICES),
        Hardware("h200", "cuda", GPU_SLICES),
        Hardware("b200", "cuda", GPU_SLICES),
    )
}


def find_hardware(name: str, num_devices: int) -> Hardware:
    """The hardware of that name. Raises ConfigError where there is none, or no slice of so many devices."""
    if name not in HARDWARE:
        raise ConfigError(f"hardware {name!r} is not one of {', '.join(HARDWARE)}{nearest(name, HARDWARE)}")
    hardware = HARDWARE[name]
    if num_devices not in hardware.slices:
        raise ConfigError(
            f"{num_devices} devices of {name} are not described (take {' or '.join(map(str, hardware.slices))})"
        )
    return hardware
