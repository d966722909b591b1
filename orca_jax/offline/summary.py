"""What an engine has chosen, in a few words: memory in units that a person reads, and one line that says it all."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orca_jax.engine.build import EngineInfo


def what_serves(engine: "EngineInfo") -> str:
    """Model, type, devices, attention and the K/V pool in one line."""
    what = f"{engine.model} in {engine.dtype} on {', '.join(engine.devices)}"
    return f"{what}; attention {engine.attention}; K/V pool {kv_pool(engine)}"


def kv_pool(engine: "EngineInfo") -> str:
    pool, size = engine.pool, engine.page_size
    pages = f"{pool.num_pages} pages of {size} token{'s' if size > 1 else ''}"
    return f"{pages}, {in_bytes(pool.bytes)} ({pool.reason})"


def in_bytes(count: int) -> str:
    """`2,147,483,648` as "2.0 GiB"."""
    value: float = count
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.{0 if unit == 'B' else 1}f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
