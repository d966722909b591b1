"""From a built engine to a listening server, and from a signal to a clean end."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn

from orca_jax.core.errors import ConfigError
from orca_jax.server.app import create_app
from orca_jax.server.config import ServerConfig
from orca_jax.server.service import Service
from orca_jax.server.watchdog import watch

logger = logging.getLogger(__name__)

MAX_HEADER_BYTES = 64 * 2**10
FAILURE_LOOK_SECONDS = 0.2
LAST_WORDS_SECONDS = 5.0  # for the errors that end what a shutdown has cut off


class OrderlyServer(uvicorn.Server):
    """A server that goes on listening while it drains, so that whoever comes then is told (503) and not just refused."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # `serve` below has handlers of its own


def bind(config: ServerConfig) -> socket.socket:
    """The server's socket, bound and not listening yet: a taken port is better known before the weights are loaded.

    Raises ConfigError.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)  # without its protocol, asyncio would not turn Nagle's delay off
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {config.host} port {config.port}: {error.strerror} (--host, --port)"
        ) from error
    return found


def serve(service: Service, listener: socket.socket, ready: Callable[[str], None]) -> int:
    """Serve until SIGTERM, SIGINT or the engine's failure; returns the exit status, 1 after a failure.

    `ready` is told the address once connections are taken.

    The first signal admits nobody any more and waits `shutdown_timeout` for those in flight; what is left then ends with
    an error of its own type. The second ends it at once.
    """
    try:
        return asyncio.run(_serve(service, listener, ready))
    finally:
        if not service.close():
            logger.error("the device has not come back; leaving without it")


async def _serve(service: Service, listener: socket.socket, ready: Callable[[str], None]) -> int:
    server = OrderlyServer(uvicorn_config(service))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _on_signal, server, stop)
    running = asyncio.ensure_future(server.serve([listener]))
    helpers = [asyncio.ensure_future(each) for each in (watch(service), stop.wait(), until_failed(service))]
    try:
        while not server.started and not running.done():
            await asyncio.sleep(0.01)
        if server.started:
            ready(address_of(listener, service.config))
        await asyncio.wait((running, *helpers[1:]), return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            await _drain(service, server)
        await running
    finally:
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
    return 0 if server.started and service.thread.failure is None else 1


async def _drain(service: Service, server: uvicorn.Server) -> None:
    timeout = service.config.shutdown_timeout
    logger.info("shutting down: %d calls in flight have %g seconds", service.calls_in_flight, timeout)
    if not await service.drain(timeout):
        logger.warning("%d calls are still in flight and are ended", service.calls_in_flight)
        if service.archive is not None:  # first of all: it would take the engine's end for its batches' failure
            await asyncio.to_thread(service.archive.worker.close)
        # Beside the loop: it waits for the iteration under way, and the errors it causes have to be sent meanwhile.
        await asyncio.gather(
            asyncio.to_thread(service.thread.close, LAST_WORDS_SECONDS), service.drain(LAST_WORDS_SECONDS)
        )
    server.should_exit = True


async def until_failed(service: Service) -> None:
    """Return once the engine has failed: whoever started this server can start another, and should know."""
    while service.thread.failure is None:
        await asyncio.sleep(FAILURE_LOOK_SECONDS)
    logger.critical("the engine has failed; the server ends")


def _on_signal(server: uvicorn.Server, stop: asyncio.Event) -> None:
    if stop.is_set():
        server.should_exit = server.force_exit = True
    stop.set()


def uvicorn_config(service: Service) -> uvicorn.Config:
    config = service.config
    return uvicorn.Config(
        create_app(service), access_log=config.access_log, log_config=None,
        http="h11",  # of uvicorn's two readers the one with a bound on headers
        h11_max_incomplete_event_size=MAX_HEADER_BYTES, ws="none", lifespan="off", server_header=False,
        timeout_graceful_shutdown=1, ssl_keyfile=config.ssl_keyfile, ssl_certfile=config.ssl_certfile,
        ssl_ca_certs=config.ssl_ca_certs, root_path=config.root_path or "",
    )  # fmt: skip


def address_of(listener: socket.socket, config: ServerConfig) -> str:
    """Where it listens in fact: port 0 has become a real one."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"{'http' if config.ssl_certfile is None else 'https'}://{shown}:{port}"
