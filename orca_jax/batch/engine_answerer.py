"""An engine as the answerer of a batch: OpenAI's bodies in, OpenAI's answers out."""

import itertools
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from orca_jax.batch.words import Answered, Failed, Item
from orca_jax.core.clock import Clock
from orca_jax.core.errors import EngineError, RequestError
from orca_jax.core.outputs import RequestOutput
from orca_jax.core.request import Request
from orca_jax.engine.door import Door
from orca_jax.engine.thread import EngineThread
from orca_jax.protocol.call import Call, Envelope, Numbering
from orca_jax.protocol.calls import parse_call
from orca_jax.protocol.completions import MAX_PROMPTS
from orca_jax.protocol.errors import ApiError, api_error, error_object, no_such_model

Outputs = list[RequestOutput]


@dataclass(frozen=True, slots=True)
class Work:
    """A line that has been through the door."""

    name: str
    call: Call[Any]
    requests: Sequence[Request]


class EngineAnswerer:
    """Answers lines with an engine that others may use, too.

    models: names that a line may ask for, the first is the one that answers carry; empty takes any name. name: tells
    the batches of one engine apart. A line without a seed gets one from the engine's seed and its own number, so that
    its answer depends neither on the other lines nor on where a run was resumed. trust_templates: take chat templates
    from lines; they are code, if sandboxed. `wall` is seconds since 1970.
    """

    def __init__(
        self,
        thread: EngineThread,
        door: Door,
        clock: Clock,
        *,
        model: str,
        models: Sequence[str] = (),
        name: str = "",
        trust_templates: bool = False,
        wall: Callable[[], float] = time.time,
    ):
        self._thread, self._door, self._clock, self._wall = thread, door, clock, wall
        self._model, self._models, self._trust_templates = model, models, trust_templates
        self._prefix = f"batch-{name}-" if name else "batch-"
        # The engine may still hold a line that an earlier run has given up: its request's id must not come again.
        self._run, self._serial = secrets.token_hex(4), itertools.count()
        self._live: dict[str, None] = {}
        self._lock = threading.Lock()

    def prepare(self, item: Item) -> Work:
        call = parse_call(item.url, item.body)
        if call.model is not None and self._models and call.model not in self._models:
            raise no_such_model(call.model, self._model)
        if call.brings_template and not self._trust_templates:
            raise ApiError(
                400, "chat_template is not accepted from requests here (--trust-request-chat-template).",
                param="chat_template",
            )  # fmt: skip
        name = f"{self._prefix}{item.number}"
        # Each line owns so many numbers: the seeds of two lines are different ones, however many prompts each has.
        request_id = f"{name}-{self._run}-{next(self._serial)}"
        numbering = Numbering(request_id, (item.number - 1) * MAX_PROMPTS, self._clock.now())
        return Work(name, call, call.requests(self._door, numbering))

    def submit(self, work: Work, done: Callable[[Outputs], None]) -> None:
        ended: dict[str, RequestOutput] = {}

        def sink(output: RequestOutput) -> None:
            if not output.finished:
                return
            ended[output.request_id] = output
            if len(ended) == len(work.requests):
                self._forget(work)
                done([ended[request.request_id] for request in work.requests])

        with self._lock:
            self._live.update(dict.fromkeys(request.request_id for request in work.requests))
        self._thread.submit(work.requests, sink)

    def answer(self, work: Work, raw: Outputs) -> Answered | Failed:
        if any(answer.finish_reason == "abort" for output in raw for answer in output.outputs):
            raise EngineError("the engine was closed before this request had ended")
        name = work.call.body.request_id or work.name
        envelope = Envelope(f"{work.call.id_prefix}-{name}", int(self._wall()), self._model)
        try:
            body = work.call.answer(work.requests, raw, envelope, self._door)
        except RequestError as error:
            return self.refusal(work.call.by_its_names(error))
        except EngineError as error:
            if not self._thread.alive:
                raise
            return self.refusal(error)  # this request's own trouble: the engine goes on without it
        usage = body["usage"]
        return Answered(body, usage["prompt_tokens"], usage["completion_tokens"])

    def refusal(self, error: Exception) -> Failed:
        found: ApiError = api_error(error)
        return Failed(found.code or found.kind, str(found), found.param, found.status, error_object(found))

    def cancel(self) -> None:
        with self._lock:
            live = tuple(self._live)
        self._thread.abort(live)

    def _forget(self, work: Work) -> None:
        with self._lock:
            for request in work.requests:
                self._live.pop(request.request_id, None)
