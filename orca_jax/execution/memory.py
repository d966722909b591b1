"""How much K/V memory there is to give: decided once at start, with the numbers stated."""

import os
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp

from orca_jax.core.errors import ConfigError
from orca_jax.execution.constraints import allocate_constraints

CPU_SHARE = 0.4  # of the host's free memory: the rest is for XLA's temporaries, the file cache and everybody else


@dataclass(frozen=True, slots=True)
class PoolSize:
    """The K/V pool: `num_pages` pages of `page_bytes`, and where the number comes from."""

    num_pages: int
    page_bytes: int
    reason: str

    @property
    def bytes(self) -> int:
        return self.num_pages * self.page_bytes


def pool_size(
    page_bytes: int, *, page_size: int, max_num_seqs: int, max_model_len: int,
    asked_bytes: int | None, gpu_memory_utilization: float, bytes_to_come: int = 0,
) -> PoolSize:  # fmt: skip
    """Pages for `asked_bytes`, or else for `max_num_seqs` sequences of full length as far as memory goes.

    `page_bytes` is what a page takes in all layers (see `outline.page_bytes`). `bytes_to_come` (of weights, of tables) are
    still to be taken beside the pool. Raises ConfigError, with the numbers, where not even one sequence of full length
    fits, or the memory asked for is not there.
    """
    per_sequence = -(-max_model_len // page_size)
    wanted = max_num_seqs * per_sequence
    if asked_bytes is not None:
        check_room(
            asked_bytes + bytes_to_come, f"kv_cache_memory_bytes = {asked_bytes}", "lower --kv-cache-memory-bytes"
        )
        pages, reason = asked_bytes // page_bytes, f"kv_cache_memory_bytes = {asked_bytes}"
    else:
        room, what = available_bytes(gpu_memory_utilization, bytes_to_come)
        pages = min(wanted, room // page_bytes)
        reason = f"{max_num_seqs} sequences of {max_model_len} tokens" if pages == wanted else f"{what} allow no more"
    if pages < per_sequence:
        raise ConfigError(
            f"the K/V pool would hold {pages} pages of {page_size} tokens ({reason}), but one sequence of max_model_len = "
            f"{max_model_len} needs {per_sequence}, {per_sequence * page_bytes} bytes "
            "(lower --max-model-len, or raise --kv-cache-memory-bytes)"
        )
    return PoolSize(pages, page_bytes, reason)


def available_bytes(gpu_memory_utilization: float, bytes_to_come: int = 0) -> tuple[int, str]:
    """Memory that the pool may take on the default device, and what that is a share of."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        room = max(free_host_bytes() - bytes_to_come, 0)
        return int(CPU_SHARE * room), f"{CPU_SHARE:.0%} of the free host memory"
    stats = device.memory_stats()
    if not stats or "bytes_limit" not in stats:
        raise ConfigError(f"{device} does not say how much memory it has; set --kv-cache-memory-bytes")
    room = int(gpu_memory_utilization * stats["bytes_limit"]) - stats.get("bytes_in_use", 0) - bytes_to_come
    return max(room, 0), f"gpu_memory_utilization = {gpu_memory_utilization} of {stats['bytes_limit']} bytes"


def table_bytes(num_slots: int, max_model_len: int, vocab_size: int) -> int:
    """Bytes of the per-slot tables that an executor allocates beside parameters and cache."""
    constraints = jax.eval_shape(lambda: allocate_constraints(num_slots, vocab_size))
    tokens = num_slots * (max_model_len + 1) * jnp.dtype(jnp.int32).itemsize
    return tokens + sum(x.size * x.dtype.itemsize for x in constraints)


def check_room(num_bytes: int, what: str, way_out: str) -> None:
    """Raise ConfigError where the default device cannot hold so much more: told beforehand, not by a killed process."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        free = free_host_bytes()
    else:
        stats = device.memory_stats() or {}
        free = stats.get("bytes_limit", num_bytes) - stats.get("bytes_in_use", 0)
    if num_bytes > free:
        raise ConfigError(f"{what}, but {device} has only {max(free, 0)} bytes free of {num_bytes} needed ({way_out})")


def free_host_bytes() -> int:
    """What the kernel would give without swapping, within this process's container."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        free = named_numbers(meminfo).get("MemAvailable", free // 1024) * 1024
    return min(free, free_in_container(Path("/sys/fs/cgroup"), free))


def free_in_container(folder: Path, otherwise: int) -> int:
    """What a control group's limit leaves; `otherwise` where there is none. The file cache is used, but not taken."""
    limit, used, details = (folder / f"memory.{name}" for name in ("max", "current", "stat"))
    if not (limit.exists() and used.exists() and details.exists()) or limit.read_text().strip() == "max":
        return otherwise
    cache = named_numbers(details)
    return int(limit.read_text()) - int(used.read_text()) + cache.get("active_file", 0) + cache.get("inactive_file", 0)


def named_numbers(file: Path) -> dict[str, int]:
    """Lines of a name, perhaps with a colon, and a number."""
    pairs = (line.replace(":", " ").split() for line in file.read_text().splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) > 1 and pair[1].isdigit()}
