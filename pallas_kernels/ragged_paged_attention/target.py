"""The hardware that a program is made for: a device of this process, or one that is only described."""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class Target:
    """`platform` is "cpu", "gpu" or "tpu"; `kind` is the device's name as its maker gives it, such as "TPU v6 lite"."""

    platform: str
    kind: str

    def __str__(self) -> str:
        return f"{self.kind} ({self.platform})"


def current_target() -> Target:
    """The devices of the mesh that `jax.set_mesh` has set, described ones included, else the first one of this process."""
    described = jax.sharding.get_abstract_mesh().abstract_device
    if described is not None:
        return Target(_platform(described.platform), described.device_kind)
    device = jax.devices()[0]
    return Target(_platform(device.platform), device.device_kind)


def _platform(name: str) -> str:
    return "gpu" if name in ("cuda", "rocm") else name
