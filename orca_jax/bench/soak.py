"""A soak with planted secrets: many clients at once, each with a secret in its prompt, who come and go as they like.

Every body is asked alone first. Then all clients ask at random, some leave in the middle, and a checker compares.
"""

import asyncio
import itertools
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

from orca_jax.bench.soak_checks import Answer, Checker, collect
from orca_jax.bench.wire import Connection, Events, ask, encoded

PATH = "/v1/completions"
LONGEST_PAUSE = 0.3  # seconds before a client without a stream hangs up
KINDS = ("greedy", "copying", "sampled")
PATIENCE = 600.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of it. `leaving` is the share of requests whose client does not stay to the end."""

    clients: int = 64
    requests: int = 2000
    tokens: int = 24
    seconds: float | None = None
    leaving: float = 0.3
    seed: int = 0


@dataclass
class Soak:
    """One run against the server at `address`; `model` is its name there."""

    address: str
    model: str
    plan: Plan
    secrets: list[str] = field(init=False)
    checker: Checker = field(init=False)
    bodies: dict[tuple[int, str], dict[str, Any]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.secrets = make_secrets(self.plan.clients, self.plan.seed)
        self.checker = Checker(self.secrets)

    async def alone(self) -> None:
        """Ask every body while nothing else is going on; these answers are the measure for all others."""
        for client, kind in itertools.product(range(self.plan.clients), KINDS):
            body = self.bodies[client, kind] = await self._body(client, kind)
            reply = await ask(self.address, "POST", PATH, body)
            if reply.status != 200:
                raise OSError(f"the server answered {reply.status} to a request alone: {reply.body[:300]!r}")
            self.checker.alone[client, kind] = collect({}, reply.json()["choices"])

    async def together(self, requests: int) -> float:
        """All clients at once, until `requests` have been made or the time is over. Returns the seconds it took."""
        left = iter(range(requests))
        began = time.monotonic()
        deadline = None if self.plan.seconds is None else began + self.plan.seconds
        await asyncio.gather(*(self._client(client, left, deadline) for client in range(self.plan.clients)))
        return time.monotonic() - began

    async def _client(self, client: int, left: Any, deadline: float | None) -> None:
        rng = random.Random(f"{self.plan.seed} {client} {self.checker.counts['requests']}")
        for _ in left:
            if deadline is not None and time.monotonic() > deadline:
                return
            self.checker.counts["requests"] += 1
            key = client, rng.choice(KINDS)
            self.checker.counts["answers asked"] += self.bodies[key].get("n", 1)
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._request(key, rng)
            except (OSError, EOFError, TimeoutError) as error:
                self.checker.violation("broken", f"{key}: {error!r}")

    async def _request(self, key: tuple[int, str], rng: random.Random) -> None:
        """One request as its dice have it: streamed or not, stayed with or left at some point."""
        stream, leaves = rng.random() < 0.5, rng.random() < self.plan.leaving
        body = encoded(self.bodies[key] | ({"stream": True} if stream else {}))
        async with await Connection.open(self.address) as connection:
            if leaves and rng.random() < 0.2:
                connection.send("POST", PATH, body, cut=rng.randrange(len(body)))
                await asyncio.sleep(rng.uniform(0, LONGEST_PAUSE))
                self.checker.left(key[0], key, {})
                return
            connection.send("POST", PATH, body)
            if stream:
                await self._read_stream(connection, key, rng.randrange(self.plan.tokens) if leaves else None)
            else:
                await self._read_whole(connection, key, rng.uniform(0, LONGEST_PAUSE) if leaves else None)

    async def _read_stream(self, connection: Connection, key: tuple[int, str], most: int | None) -> None:
        answer: Answer = {}
        reply = await connection.head()
        if reply.status != 200:
            self.checker.violation("refused", f"{key}: status {reply.status}")
            return
        events, seen = Events(), 0
        async for part in connection.parts():
            for data in events.feed(part):
                if data == b"[DONE]":
                    self.checker.finished(key[0], key, answer)
                    return
                chunk = json.loads(data)
                if "error" in chunk:
                    self.checker.violation("refused", f"{key}: {chunk}")
                    return
                collect(answer, chunk["choices"])
                seen += 1
                if most is not None and seen > most:
                    self.checker.left(key[0], key, answer)
                    return
        self.checker.violation("broken", f"{key}: the stream ended without [DONE]")

    async def _read_whole(self, connection: Connection, key: tuple[int, str], pause: float | None) -> None:
        try:
            async with asyncio.timeout(pause):
                reply = await connection.head()
                data = b"".join([part async for part in connection.parts()])
        except TimeoutError:
            self.checker.left(key[0], key, {})
            return
        if reply.status != 200:
            self.checker.violation("refused", f"{key}: status {reply.status}: {data!r}")
            return
        self.checker.finished(key[0], key, collect({}, json.loads(data)["choices"]))

    async def _body(self, client: int, kind: str) -> dict[str, Any]:
        line = f'TOKEN = "{self.secrets[client]}"\n'
        body = {
            "model": self.model, "prompt": line * 6 + 'TOKEN = "', "max_tokens": self.plan.tokens, "ignore_eos": True,
            "return_token_ids": True, "temperature": 0.0,
        }  # fmt: skip
        if kind == "copying":  # only the line's own tokens, so that the model has little choice but to repeat it
            reply = await ask(self.address, "POST", "/tokenize", {"prompt": line, "add_special_tokens": False})
            body["allowed_token_ids"] = sorted(set(reply.json()["tokens"]))
        elif kind == "sampled":
            body |= {"temperature": 0.9, "top_p": 0.95, "seed": client, "n": 2}
        return body


def make_secrets(count: int, seed: int) -> list[str]:
    """Different ones, of syllables that a small model can copy, and none part of another."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found["_".join(rng.choice("abcdefghijklmnop") + rng.choice("qrstuvwxyz") for _ in range(4))] = None
    return list(found)
