"""A server for the page's own tests: the real routes, feed, ledger and loop over the fake executor; answers are made up.

Run by hand (`python tests/server/page_double.py [PORT]`) it also keeps a few requests going, to look at the page.
"""

import asyncio
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from orca_jax.core.sampling_params import RequestOutputKind
from orca_jax.engine.engine import Engine
from orca_jax.engine.output import OutputProcessor
from orca_jax.observe.facts import Facts
from orca_jax.observe.ledger import Ledger
from orca_jax.observe.live import LiveFeed
from orca_jax.scheduling.kv_manager import KVManager
from orca_jax.scheduling.scheduler import Scheduler
from orca_jax.server.page_routes import page_routes
from orca_jax.testing.fake_executor import FakeExecutor, FakeModel
from orca_jax.testing.requests import make_request

ROWS, PAGES, PAGE_SIZE = 8, 160, 8
WORDS = ("the", "batch", "moves", "one", "token", "for", "each", "request", "<b>&amp;", "then", "again", "\n")
KEY = "sesame"


class Loop(threading.Thread):
    """The engine's loop with requests handed in from other threads; `seconds` is what an iteration takes."""

    def __init__(self, ledger: Ledger, seconds: float):
        super().__init__(daemon=True)
        scheduler = Scheduler(
            KVManager(PAGES, PAGE_SIZE, 2 * ROWS), ROWS, max_batch_tokens=24, chunked=True, lookahead=1
        )
        executor = FakeExecutor(FakeModel(eos_every=200), PAGES, PAGE_SIZE, 2 * ROWS)
        self.engine = Engine(scheduler, executor, OutputProcessor(None), observers=[ledger])
        self.seconds = seconds
        self.lock = threading.Lock()
        self.queues: dict[str, tuple[asyncio.AbstractEventLoop, asyncio.Queue[Any]]] = {}
        self.going = True
        self.arrival = 0

    def run(self) -> None:
        while self.going:
            time.sleep(self.seconds)
            with self.lock:
                outputs = self.engine.step() if self.engine.has_unfinished else []
            for output in outputs:
                if output.request_id in self.queues:
                    loop, queue = self.queues[output.request_id]
                    loop.call_soon_threadsafe(queue.put_nowait, output)

    def add(self, prompt_len: int, max_tokens: int, queue: asyncio.Queue[Any] | None = None) -> str:
        with self.lock:
            self.arrival += 1
            name = f"cmpl-{self.arrival:08x}"
            if queue is not None:
                self.queues[name] = (asyncio.get_running_loop(), queue)
            self.engine.add_request(
                make_request(prompt_len, max_tokens, request_id=name, arrival=self.arrival,
                             arrival_time=self.engine.clock.now(), output_kind=RequestOutputKind.DELTA)
            )  # fmt: skip
        return name

    def abort(self, name: str) -> None:
        with self.lock:
            self.engine.abort(name)


def token_text(token: int) -> str:
    return " " + WORDS[token % len(WORDS)]


def logprobs(chat: bool, texts: list[str]) -> dict[str, Any]:
    """The likelier two of three made-up alternatives for each token, in the format of either route."""
    values = [-0.05 - (len(text) % 4) * 0.9 for text in texts]
    if not chat:
        top = [{text: value, " other": value - 1.5} for text, value in zip(texts, values, strict=True)]
        return {"tokens": texts, "token_logprobs": values, "top_logprobs": top, "text_offset": [0] * len(texts)}
    entries = [{"token": text, "logprob": value, "bytes": None} for text, value in zip(texts, values, strict=True)]
    return {"content": [{**entry, "top_logprobs": [entry, {**entry, "token": " other"}]} for entry in entries]}


async def chunks(loop: Loop, body: dict[str, Any], chat: bool) -> AsyncIterator[str]:
    queue: asyncio.Queue[Any] = asyncio.Queue()
    words = json.dumps(body.get("messages") or body.get("prompt")).split()
    name = loop.add(max(1, len(words)), body.get("max_tokens", 16), queue)
    wanted = body.get("logprobs")
    try:
        while True:
            output = await queue.get()
            for answer in output.outputs:
                texts = [token_text(token) for token in answer.token_ids]
                text = "".join(texts)
                choice = {"delta": {"content": text}} if chat else {"text": text}
                choice |= {"index": answer.index, "finish_reason": answer.finish_reason}
                choice["logprobs"] = None if wanted in (None, False) else logprobs(chat, texts)
                yield f"data: {json.dumps({'id': name, 'choices': [choice]})}\n\n"
            if output.finished:
                yield "data: [DONE]\n\n"
                return
    finally:
        loop.abort(name)


def make_app(ledger: Ledger, loop: Loop, api_key: str | None = None) -> FastAPI:
    app = FastAPI()
    app.state.stream = page_routes(app, LiveFeed(ledger, Facts("double", ROWS, PAGES, PAGE_SIZE, 512)))

    @app.middleware("http")
    async def guard(request: Request, call_next: Any) -> Response:
        public = request.url.path == "/" or request.url.path.startswith("/page/")
        if api_key is None or public or request.headers.get("authorization") == f"Bearer {api_key}":
            return await call_next(request)
        return JSONResponse(
            {"error": {"message": "Wrong or missing API key.", "type": "x", "code": "invalid_api_key"}}, 401
        )

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "double", "object": "model"}]}

    async def answer(request: Request) -> Response:
        body = await request.json()
        if body.get("max_tokens", 16) > 400:
            message = f"max_tokens = {body['max_tokens']} <i>is above</i> 400."
            return JSONResponse({"error": {"message": message, "param": "max_tokens"}}, 400)
        chat = request.url.path.endswith("chat/completions")
        return StreamingResponse(chunks(loop, body, chat), media_type="text/event-stream")

    app.post("/v1/completions")(answer)
    app.post("/v1/chat/completions")(answer)
    return app


@contextmanager
def serving(port: int = 0, seconds: float = 0.01, api_key: str | None = None) -> Iterator[tuple[str, Loop]]:
    """A running double; gives its address and its loop."""
    ledger = Ledger()
    loop = Loop(ledger, seconds)
    app = make_app(ledger, loop, api_key)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    loop.start()
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        address = server.servers[0].sockets[0].getsockname()
        yield f"http://{address[0]}:{address[1]}", loop
    finally:
        server.should_exit = True
        app.state.stream._closing.set()
        thread.join(10)
        loop.going = False
        loop.join(10)


if __name__ == "__main__":
    with serving(int(sys.argv[1]) if len(sys.argv) > 1 else 8765, 0.03) as (url, running):
        print(url, flush=True)
        number = 0
        while True:
            number += 1
            running.add(3 + number * 7 % 40, 20 + number * 13 % 60)
            time.sleep(0.18 if number % 20 else 1.0)
