"""The least HTTP that a load generator needs: what it spends itself is missing at the server that it measures."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

HEAD = "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
LONGEST_PART = 2**26  # bytes


@dataclass(slots=True)
class Reply:
    """A whole answer. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """One request over a connection of its own, which may be dropped at any moment. Raises OSError and EOFError."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str):
        self._reader = reader
        self._writer = writer
        self._host = host
        self._headers: dict[str, str] = {}

    @classmethod
    async def open(cls, address: str) -> "Connection":
        """Connect to an address such as http://127.0.0.1:8000."""
        host, _, port = address.removeprefix("http://").rpartition(":")
        return cls(*await asyncio.open_connection(host.strip("[]"), int(port), limit=2**18), host)

    def send(self, method: str, path: str, body: bytes = b"", cut: int | None = None) -> None:
        """Send a request; with `cut`, only so many bytes of its body."""
        head = HEAD.format(method=method, path=path, host=self._host, length=len(body)) + "Connection: close\r\n\r\n"
        self._writer.write(head.encode() + body[:cut])

    async def head(self) -> Reply:
        """Status and headers, as soon as they have come; the body is still to be read."""
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in lines[1:] if line)
        self._headers = {name.lower(): value.strip() for name, _, value in fields}
        return Reply(int(lines[0].split(" ")[1]), self._headers)

    async def parts(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        if self._headers.get("transfer-encoding") == "chunked":
            while size := int(await self._reader.readline(), 16):
                yield (await self._reader.readexactly(size + 2))[:-2]
        elif length := int(self._headers.get("content-length", "0")):
            yield await self._reader.readexactly(min(length, LONGEST_PART))

    def close(self) -> None:
        """Hang up at once: what was sent to us and not read makes the other side's kernel answer with a reset."""
        self._writer.transport.abort()

    async def __aenter__(self) -> "Connection":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def ask(address: str, method: str, path: str, body: Any = None) -> Reply:
    """One request and its whole answer."""
    async with await Connection.open(address) as connection:
        connection.send(method, path, b"" if body is None else encoded(body))
        reply = await connection.head()
        reply.body = b"".join([part async for part in connection.parts()])
        return reply


def encoded(body: Any) -> bytes:
    return json.dumps(body).encode()


@dataclass(slots=True)
class Events:
    """Server-sent events cut out of parts that may end anywhere."""

    rest: bytes = b""

    def feed(self, part: bytes) -> list[bytes]:
        """The data of the events that this part completes; comments are left out."""
        *whole, self.rest = (self.rest + part).split(b"\n\n")
        return [event[6:] for event in whole if event.startswith(b"data: ")]
