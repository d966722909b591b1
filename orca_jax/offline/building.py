"""Building an engine while a person watches: bars for loading and warm-up, then one line that says what serves."""

from typing import TYPE_CHECKING

from orca_jax.core.config import EngineConfig
from orca_jax.core.events import Observer
from orca_jax.offline.progress import StartBars
from orca_jax.offline.summary import what_serves

if TYPE_CHECKING:  # building imports jax, which the doors must not before they build
    from orca_jax.engine.build import BuiltEngine


def build(config: EngineConfig, observers: tuple[Observer, ...], shown: bool) -> "BuiltEngine":
    """`build_engine`, with bars on a terminal if `shown`."""
    from orca_jax.engine.build import build_engine

    if not shown:
        return build_engine(config, observers=observers)
    bars = StartBars()
    try:
        built = build_engine(config, observers=observers, progress=bars)
    finally:
        bars.close()
    bars.tell(what_serves(built.info))
    return built
