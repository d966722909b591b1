"""What an engine has chosen, in a few words: memory in units that a person reads, and the line that is said at start."""

import sys
from typing import TYPE_CHECKING

from orca_jax.cli.terminal import DIM, on_terminal, say, styled

if TYPE_CHECKING:
    from orca_jax.engine.build import EngineInfo


def say_what_serves(engine: "EngineInfo") -> None:
    """Tell the person at the terminal what was chosen; a pipe is told nothing."""
    if on_terminal(sys.stderr):
        what = f"{engine.model} in {engine.dtype} on {', '.join(engine.devices)}"
        say(styled(f"{what}; attention {engine.attention}; K/V pool {kv_pool(engine)}", DIM, sys.stderr))


def kv_pool(engine: "EngineInfo") -> str:
    pool = engine.pool
    return f"{pool.num_pages} pages of {engine.page_size} tokens, {in_bytes(pool.bytes)} ({pool.reason})"


def in_bytes(count: int) -> str:
    """`2,147,483,648` as "2.0 GiB"."""
    value: float = count
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.{0 if unit == 'B' else 1}f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
