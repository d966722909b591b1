"""A file that grows by whole lines only: what a kill or a full disk may tear is cut off again."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from orca_jax.batch.words import BatchError

CHUNK = 2**20


class RawFile(Protocol):
    """What an `AppendFile` needs of a file; every call may raise OSError."""

    def size(self) -> int: ...

    def read(self, count: int, offset: int) -> bytes: ...

    def append(self, data: bytes) -> int:
        """Write at the end; returns how many bytes were taken, which may be fewer."""

    def truncate(self, size: int) -> None: ...

    def sync(self) -> None:
        """Return when the disk has it."""

    def close(self) -> None: ...


class OsFile:
    """A file of the operating system, opened for reading and appending and made if it is missing."""

    def __init__(self, path: Path):
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def read(self, count: int, offset: int) -> bytes:
        return os.pread(self.fd, count, offset)

    def append(self, data: bytes) -> int:
        return os.write(self.fd, data)

    def truncate(self, size: int) -> None:
        os.ftruncate(self.fd, size)

    def sync(self) -> None:
        os.fsync(self.fd)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class AppendFile:
    """JSON lines, appended. `recover` first. `name` is what errors call the file; they are BatchError."""

    def __init__(self, raw: RawFile, name: str):
        self.raw = raw
        self.name = name
        self.size = 0  # bytes that are known to be whole lines
        self._unsynced = False

    def recover(self, accept: Callable[[dict[str, Any]], bool]) -> None:
        """Show `accept` every record in turn; the first that is torn or not accepted is cut off with all after it."""
        self._guard(lambda: self._recover(accept))

    def append(self, lines: Sequence[bytes]) -> None:
        """Add lines, each ending with a newline. All of it or, where BatchError is raised, nothing."""
        if lines:
            self._guard(lambda: self._append(b"".join(lines)))

    def sync(self) -> None:
        """Wait until the disk has all that was appended."""
        if self._unsynced:
            self._guard(self.raw.sync)
            self._unsynced = False

    def close(self) -> None:
        self.raw.close()

    def _recover(self, accept: Callable[[dict[str, Any]], bool]) -> None:
        self.size, at, rest = 0, 0, bytearray()
        while chunk := self.raw.read(CHUNK, at):
            at += len(chunk)
            rest += chunk
            whole = rest.rfind(b"\n") + 1
            for line in bytes(rest[:whole]).splitlines(keepends=True):
                record = _record(line)
                if record is None or not accept(record):
                    self._cut()
                    return
                self.size += len(line)
            del rest[:whole]
        self._cut()

    def _cut(self) -> None:
        if self.raw.size() != self.size:
            self.raw.truncate(self.size)

    def _append(self, data: bytes) -> None:
        view, taken = memoryview(data), 0
        try:
            while taken < len(data):
                taken += self.raw.append(bytes(view[taken:]))
        except OSError:
            self.raw.truncate(self.size)
            raise
        self.size += len(data)
        self._unsynced = True

    def _guard(self, act: Callable[[], None]) -> None:
        try:
            act()
        except OSError as error:
            reason = error.strerror or str(error)
            raise BatchError(f"cannot write {self.name}: {reason} (then the same command goes on from here)") from error


def _record(line: bytes) -> dict[str, Any] | None:
    """The JSON object that a whole line holds, None where it holds none."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
