"""What this machine has and what the engine would choose on it, without allocating or compiling anything for it."""

import importlib.metadata
import os
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orca_jax.core.config import EngineConfig
from orca_jax.version import __version__

if TYPE_CHECKING:
    from orca_jax.engine.build import EngineInfo

SHOWN_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "safetensors", "tokenizers")


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator or CPU as JAX sees it. `memory_bytes` is None where it does not say."""

    name: str
    platform: str
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class MachineInfo:
    """Versions by package, devices, the attention that would run (and why not the device's own kernels, where it is not
    these), cores, and the host's memory in bytes.
    """

    versions: dict[str, str]
    devices: tuple[Device, ...]
    attention: str
    attention_note: str | None
    num_cores: int
    host_memory_bytes: int


def describe_machine(config: EngineConfig) -> MachineInfo:
    """Look at this machine. Raises ConfigError where `attention_backend` cannot run on it."""
    import jax

    from orca_jax.engine.build import attention_implementation, attention_note

    attention = attention_implementation(config)
    versions = {"orca-jax": __version__, "python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in SHOWN_PACKAGES}
    return MachineInfo(
        versions=versions,
        devices=tuple(Device(str(d), d.device_kind, _memory(d.memory_stats())) for d in jax.devices()),
        attention=attention,
        attention_note=attention_note(attention),
        num_cores=len(os.sched_getaffinity(0)) if platform.system() == "Linux" else os.cpu_count() or 1,
        host_memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )


def plan_engine(config: EngineConfig) -> "EngineInfo":
    """Choose everything the configuration leaves open, as `LLM` would, but load no weights and build no engine.

    Raises ConfigError or CheckpointError as `LLM` does.
    """
    from orca_jax.engine import build

    return build.plan_engine(config)


def _memory(stats: dict[str, int] | None) -> int | None:
    return None if stats is None else stats.get("bytes_limit")
