"""The hardware that a program is made for: a device of this process, or one that is only described."""

import dataclasses

import jax
import numpy as np
from jax.sharding import Mesh


@dataclasses.dataclass(frozen=True)
class Target:
    """`platform` is "cpu", "gpu" or "tpu"; `kind` is the device's name as its maker gives it, such as "TPU v6 lite".

    `cores` counts a GPU's multiprocessors or a TPU's cores, where the device tells.
    """

    platform: str
    kind: str
    cores: int | None = None

    def __str__(self) -> str:
        return f"{self.kind} ({self.platform})"


def current_target() -> Target:
    """The devices of the mesh that `jax.set_mesh` has set, described ones included, else the first one of this process."""
    described = jax.sharding.get_abstract_mesh().abstract_device
    if described is None:  # a mesh of the device that is there asks it the same questions
        described = Mesh(np.array(jax.devices()[:1]), ("one",)).abstract_mesh.abstract_device
    return Target(_platform(described.platform), described.device_kind, described.num_cores)


def _platform(name: str) -> str:
    return "gpu" if name in ("cuda", "rocm") else name
