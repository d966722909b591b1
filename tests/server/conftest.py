"""A real server on a real port, over a whole engine with the fake executor."""

import asyncio
import contextlib
import shutil
import threading
import time

import httpx
import openai
import pytest

from orca_jax.core.config import EngineConfig
from orca_jax.observe.ledger import Ledger
from orca_jax.server.archive import open_archive, open_store
from orca_jax.server.config import ServerConfig
from orca_jax.server.run import OrderlyServer, address_of, bind, uvicorn_config
from orca_jax.server.service import Service
from orca_jax.server.waiting_room import WaitingRoom
from orca_jax.testing.fake_engine import build_fake_engine
from orca_jax.testing.tiny_tokenizer import write_tokenizer

PATIENCE = 30.0
BROWSER_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
                 "--disable-component-update", "--disable-sync"]  # fmt: skip


class Running:
    """A server that listens, with the things behind it for tests to look at."""

    def __init__(self, service, loop, address):
        self.service = service
        self._loop = loop
        self.address = address

    def http(self, **options):
        return httpx.Client(base_url=self.address, timeout=PATIENCE, **options)

    def openai(self, key="none"):
        return openai.OpenAI(base_url=f"{self.address}/v1", api_key=key, max_retries=0, timeout=PATIENCE)

    def within(self, coroutine):
        """Start something in the server's own loop; gives a future."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def engine(self, look):
        """`look(engine)` between two iterations."""
        return self.service.thread.call(look).result(PATIENCE)

    def wait_until_idle(self):
        deadline = time.monotonic() + PATIENCE
        while self.engine(lambda engine: engine.has_unfinished) or self.service.calls_in_flight:
            assert time.monotonic() < deadline, "requests are still in flight"
            time.sleep(0.01)
        self.engine(lambda engine: engine.check())
        assert self.engine(lambda engine: engine.scheduler.kv.pages_reserved) == 0
        assert self.service.room.statistics() == {"queued_requests": 0, "queued_tokens": 0}

    def until(self, holds, what="it"):
        deadline = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < deadline, f"{what} has not come"
            time.sleep(0.005)

    def wait_until_running(self, count):
        """Until the engine, and not only the server, has so many requests."""
        self.until(lambda: self.engine(lambda e: e.scheduler.statistics()["requests"]) >= count, f"{count} requests")

    def post(self, path, body, **options):
        with self.http() as http:
            return http.post(path, json=body, **options)


@contextlib.contextmanager
def listening(service):
    server = OrderlyServer(uvicorn_config(service))
    loop = asyncio.new_event_loop()
    listener = bind(service.config)
    thread = threading.Thread(target=loop.run_until_complete, args=(server.serve([listener]),), daemon=True)
    thread.start()
    deadline = time.monotonic() + PATIENCE
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline
        time.sleep(0.005)
    try:
        yield Running(service, loop, address_of(listener, service.config))
    finally:
        service.draining = True  # as before any orderly end; viewers of the live page leave by it
        server.should_exit = True
        thread.join(PATIENCE)
        service.close()
        loop.close()
        listener.close()


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def serving(tokenizer_folder):
    """Serves until the block is left: `with serving(engine={...}, **server_settings) as running`."""

    @contextlib.contextmanager
    def serve(engine=None, executor_delay=0.0, **settings):
        config = ServerConfig(**{"port": 0, "data_dir": "none", **settings})
        room = WaitingRoom(config.max_num_queued_reqs, config.max_num_queued_tokens)
        ledger = Ledger()
        built = build_fake_engine(
            tokenizer_folder, EngineConfig.from_settings({"default_max_tokens": 8, **(engine or {})}), [room, ledger]
        )
        if executor_delay:
            collect = built.engine.executor.collect
            built.engine.executor.collect = lambda: (time.sleep(executor_delay), collect())[1]
        service = Service(built, config, room, ledger)
        store = open_store(config)
        service.archive = None if store is None else open_archive(service, built, built.config, store)
        with listening(service) as running:
            yield running

    return serve


@pytest.fixture(scope="session")
def running(serving):
    """One server for all tests that leave it as they found it."""
    with serving() as running:
        yield running
        running.wait_until_idle()


@pytest.fixture(scope="module")
def chromium():
    """A real browser; each context that a test opens in it has a profile of its own.

    One a module and not one a session: while it lives, Playwright has an event loop running in the tests' own thread.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no chromium on this machine (Debian: apt-get install chromium)")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the dev extra brings it)")
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, headless=True, args=BROWSER_FLAGS)
        yield browser
        browser.close()
