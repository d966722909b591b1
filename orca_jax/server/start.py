"""From settings to a server that runs until it is told to stop."""

from collections.abc import Callable

from orca_jax.core.clock import Clock
from orca_jax.core.config import EngineConfig
from orca_jax.core.errors import ConfigError
from orca_jax.engine.build import Progress, build_engine
from orca_jax.observe.ledger import Ledger
from orca_jax.server.archive import open_archive, open_store
from orca_jax.server.config import ServerConfig
from orca_jax.server.run import bind, serve
from orca_jax.server.service import Service
from orca_jax.server.tracer import NoTraces, Tracer
from orca_jax.server.waiting_room import WaitingRoom

Ready = Callable[[str, Service], None]
"""Told the address and the service once connections are taken."""


def start(config: ServerConfig, engine: EngineConfig, progress: Progress, ready: Ready) -> int:
    """Build, warm up, serve. Returns the exit status; raises ConfigError and CheckpointError before anything listens."""
    _ = config.key  # a file that cannot be read is better known before the weights are loaded
    with bind(config) as listener:
        store = open_store(config)
        room = WaitingRoom(config.max_num_queued_reqs, config.max_num_queued_tokens)
        ledger = Ledger()
        built = build_engine(engine, observers=[room, ledger], progress=progress)
        if built.door.grammars is not None:
            built.door.grammars.prepare()  # or the first client to ask for a form would wait for it
        service = Service(built, config, room, ledger, tracer(config, built.info.model, built.engine.clock))
        service.archive = None if store is None else open_archive(service, built, engine, store)
        return serve(service, listener, lambda address: ready(address, service))


def tracer(config: ServerConfig, model: str, clock: Clock) -> Tracer:
    """Who traces the requests. Raises ConfigError where the packages for it are missing."""
    if config.otlp_traces_endpoint is None:
        return NoTraces()
    try:
        from orca_jax.server.traces import Traces
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"otlp_traces_endpoint needs OpenTelemetry ({error.name} is missing): pip install 'orca-jax[otel]'"
        ) from error
    return Traces.to(config.otlp_traces_endpoint, config.served_model_name or model, clock)
