"""What all routes share: the engine behind the door, who may come in, and how it all ends."""

import asyncio
import itertools
import logging
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from orca_jax.core.clock import Clock
from orca_jax.core.request import Request
from orca_jax.core.sampling_params import SamplingParams
from orca_jax.engine.async_engine import AsyncEngine
from orca_jax.engine.door import Door
from orca_jax.engine.engine import Engine
from orca_jax.engine.thread import EngineThread
from orca_jax.observe.facts import Facts
from orca_jax.observe.ledger import Ledger
from orca_jax.observe.live import LiveFeed
from orca_jax.protocol.call import Call, Envelope, Numbering
from orca_jax.protocol.calls import parse_call
from orca_jax.protocol.errors import ApiError, no_such_model
from orca_jax.protocol.json_text import read_json
from orca_jax.server.config import ServerConfig
from orca_jax.server.crew import Crews
from orca_jax.server.files import Archive
from orca_jax.server.tracer import NoTraces, Tracer
from orca_jax.server.waiting_room import WaitingRoom
from orca_jax.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


class Served(Protocol):
    """What the server needs of a built engine."""

    @property
    def engine(self) -> Engine: ...
    @property
    def door(self) -> Door: ...
    @property
    def tokenizer(self) -> Tokenizer | None: ...
    @property
    def info(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Admitted:
    """A call with its requests, which the waiting room has counted."""

    call: Call[Any]
    requests: list[Request]
    envelope: Envelope


class Service:
    """The engine as the routes see it. Made before the event loop runs. `room` and `ledger` observe the engine."""

    def __init__(
        self, built: Served, config: ServerConfig, room: WaitingRoom, ledger: Ledger, tracer: Tracer | None = None
    ):
        self.config = config
        self.room = room
        self.tracer: Tracer = NoTraces() if tracer is None else tracer
        self.door = built.door
        self.tokenizer = built.tokenizer
        self.info = built.info
        self.model = config.served_model_name or str(built.info.model)
        self.started = int(time.time())
        scheduler = built.engine.scheduler
        self.ledger = ledger
        self.facts = Facts(
            self.model,
            scheduler.max_batch_size,
            scheduler.kv.num_pages,
            scheduler.kv.page_size,
            self.door.max_model_len,
        )
        self.feed = LiveFeed(ledger, self.facts)
        self.thread = EngineThread(built.engine)
        self._clock: Clock = built.engine.clock
        self._engine: AsyncEngine | None = None
        self.crews = Crews()
        self._arrivals = itertools.count()
        self._calls = 0
        self._preparing = 0
        self._idle = asyncio.Event()
        self.archive: Archive | None = None
        self.draining = False
        self.hung = False

    @property
    def engine(self) -> AsyncEngine:
        if self._engine is None:
            self._engine = AsyncEngine(self.thread)
        return self._engine

    @property
    def calls_in_flight(self) -> int:
        return self._calls

    def trouble(self) -> str | None:
        """Why no request can be served now; None where all is well."""
        if self.hung:
            return "an iteration has not come back within the watchdog's time"
        if self.thread.failure is not None:
            return "the engine has failed"  # how is in the log: the text may hold paths
        if self.draining:
            return "the server is shutting down"
        return None if self.thread.alive else "the engine is closed"

    def check_open(self) -> None:
        """Raise ApiError (503) where nothing is served any more, or not now."""
        if self.trouble() is not None:
            raise unavailable(self)

    async def prepare(self, url: str, body: bytes, headers: Mapping[str, str]) -> Admitted:
        """A body through the door and into the waiting room. Raises RequestError and ApiError."""
        self.check_open()
        self.room.check(1 + self._preparing)  # of a burst, those too many are refused before any of it is tokenised
        call_id = uuid.uuid4().hex
        self._preparing += 1
        try:
            prepared = await self.crews.calls.do(self._prepare, url, body, call_id)
        finally:
            self._preparing -= 1
        self.check_open()
        self.room.enter(prepared.requests)
        self.tracer.begin(prepared.requests, headers)
        return prepared

    def dismiss(self, admitted: Admitted) -> None:
        """After the call has ended, well or not."""
        self.room.leave([request.request_id for request in admitted.requests])
        self.tracer.drop(admitted.requests)

    def request(self, prompt: list[int], params: SamplingParams, request_id: str) -> Request:
        """A request of the server's own."""
        return self.door.make(
            prompt, params, request_id=request_id, arrival=next(self._arrivals) * MAX_REQUESTS_PER_CALL,
            arrival_time=self._clock.now(),
        )  # fmt: skip

    def reported(self, answer: ApiError, error: Exception) -> ApiError:
        """The answer to an exception; one that is the server's own fault is logged with its trace."""
        if answer.status == 500:
            logger.error("a request failed: %s", error, exc_info=error)
        return answer

    @asynccontextmanager
    async def in_flight(self) -> AsyncIterator[None]:
        """Around whatever a shutdown should wait for."""
        self._calls += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    async def drain(self, timeout: float) -> bool:
        """Admit nobody from now on, and wait until those who are here have gone. False where some have not."""
        self.draining = True
        if not self._calls:
            return True
        try:
            async with asyncio.timeout(timeout):
                while self._calls:
                    await self._idle.wait()
                    await asyncio.sleep(BETWEEN_SECONDS)
        except TimeoutError:
            return False
        return True

    def close(self) -> bool:
        """End what is left, free the engine's memory. False where an iteration is hung."""
        if self.archive is not None:
            self.archive.close()
        self.crews.close()
        self.tracer.close()
        return self.thread.close(timeout=10.0)

    def _prepare(self, url: str, body: bytes, call_id: str) -> Admitted:
        call = parse_call(url, read_json(body))
        self.check_model(call.model)
        if call.brings_template and not self.config.trust_request_chat_template:
            raise ApiError(
                400, "chat_template is not accepted from requests here (--trust-request-chat-template).",
                param="chat_template",
            )  # fmt: skip
        number = next(self._arrivals)
        name = call.body.request_id or call_id
        envelope = Envelope(f"{call.id_prefix}-{name}", int(time.time()), self.model)
        first = number * MAX_REQUESTS_PER_CALL
        numbering = Numbering(f"{envelope.id}.{number}", first, self._clock.now())
        return Admitted(call, call.requests(self.door, numbering), envelope)

    def check_model(self, name: str | None) -> None:
        """Raise ApiError unless `name` is the served model's."""
        if name is None:
            raise ApiError(400, "the field model is needed: /v1/models says what is served.", param="model")
        if name != self.model:
            raise no_such_model(name, self.model)


BETWEEN_SECONDS = 0.05  # a stream is nobody's for a moment, between its preparation and its first byte
MAX_REQUESTS_PER_CALL = 2**16  # leaves each call numbers of its own, whose order is that of arrival


def unavailable(service: Service) -> ApiError:
    """503 with the reason, worth trying again later or elsewhere."""
    return ApiError(
        503, f"The server cannot take requests: {service.trouble()}.", kind="server_error",
        code="service_unavailable", retry_after=5,
    )  # fmt: skip
