"""The clients of `bench server`, in a process of their own so that their CPU time can be told from the server's.

Reads an `Order` as JSON from standard input, puts that load on the server, and prints what the clients saw.
"""

import asyncio
import itertools
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from orca_jax.bench.offline import cpu_seconds
from orca_jax.bench.wire import Connection, ask, encoded

PATH = "/v1/completions"
HEALTH_EVERY = 0.1  # seconds


@dataclass(frozen=True, slots=True)
class Order:
    """What to send. Without `seconds` each body once, all at once; with them `clients` that ask again and again
    until they are refused. With `rate` (requests per second) new ones keep coming besides, whoever is still waiting.
    """

    address: str
    bodies: list[dict[str, Any]]
    clients: int = 0
    seconds: float | None = None
    rate: float = 0.0
    skip: float = 0.0  # seconds in the beginning in which tokens are not counted


@dataclass
class Seen:
    """What the clients saw. Times are in seconds."""

    began: float = field(default_factory=time.perf_counter)
    statuses: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    chunks: int = 0
    chunks_counted: int = 0  # after the `skip` and before the end
    first: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    burst: list[float] = field(default_factory=list)  # refusals in the skipped beginning, when all come at once
    health: list[float] = field(default_factory=list)
    wall: float = 0.0
    cpu: float = 0.0


class Crowd:
    """All clients of one order."""

    def __init__(self, order: Order):
        self._order = order
        self._bodies = itertools.cycle([encoded(body) for body in order.bodies])
        self._seen = Seen()
        seconds = float("inf") if order.seconds is None else order.seconds
        self._from, self._until = self._seen.began + order.skip, self._seen.began + seconds

    async def run(self) -> Seen:
        before, order = cpu_seconds(), self._order
        health = asyncio.ensure_future(self._watch_health())
        if order.seconds is None:
            await asyncio.gather(*(self._request() for _ in order.bodies))
        else:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(order.clients):
                    tasks.create_task(self._again_and_again())
                if order.rate:
                    tasks.create_task(self._keep_coming(tasks))
        health.cancel()
        await asyncio.gather(health, return_exceptions=True)
        self._seen.wall = time.perf_counter() - self._seen.began
        self._seen.cpu = cpu_seconds() - before
        return self._seen

    async def _again_and_again(self) -> None:
        while time.perf_counter() < self._until and await self._request():
            pass

    async def _keep_coming(self, tasks: asyncio.TaskGroup) -> None:
        for number in itertools.count():
            due = self._seen.began + number / self._order.rate
            if due > self._until:
                return
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.create_task(self._request())

    async def _request(self) -> bool:
        """One stream to its end; False where it was refused. Events are counted, not read: no more has to be known."""
        seen, began = self._seen, time.perf_counter()
        async with await Connection.open(self._order.address) as connection:
            connection.send("POST", PATH, next(self._bodies))
            reply = await connection.head()
            self._count(reply.status)
            if reply.status != 200:
                (seen.refusals if began >= self._from else seen.burst).append(time.perf_counter() - began)
                return False
            number, last = 0, b""
            async for part in connection.parts():
                now = time.perf_counter()
                if not number:
                    seen.first.append(now - began)
                count = part.count(b'"finish_reason"')
                number += count
                if self._from <= now < self._until:
                    seen.chunks_counted += count
                last = (last + part)[-600:]
            seen.chunks += number
            seen.tokens += usage_in(last)
            return True

    def _count(self, status: int) -> None:
        self._seen.statuses[str(status)] = self._seen.statuses.get(str(status), 0) + 1

    async def _watch_health(self) -> None:
        while True:
            began = time.perf_counter()
            reply = await ask(self._order.address, "GET", "/health")
            if reply.status != 200:
                self._count(reply.status)
            self._seen.health.append(time.perf_counter() - began)
            await asyncio.sleep(HEALTH_EVERY)


def usage_in(tail: bytes) -> int:
    """The completion tokens that the last chunk reports."""
    return int(tail.rpartition(b'"completion_tokens":')[2].split(b",")[0])


def main() -> None:
    seen = asyncio.run(Crowd(Order(**json.loads(sys.stdin.read()))).run())
    print(json.dumps(asdict(seen)))


if __name__ == "__main__":
    main()
