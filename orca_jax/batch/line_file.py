"""A file of lines as a random-access source: where each line begins, found in one pass that also takes a fingerprint."""

import hashlib
import os
from array import array
from pathlib import Path

from orca_jax.batch.words import BatchError, LineError

MAX_LINE_BYTES = 16 * 2**20  # a line is held in memory as a whole, and several are read ahead
CHUNK = 2**20
BOM = b"\xef\xbb\xbf"
UTF16 = (b"\xff\xfe", b"\xfe\xff")


class LineFile:
    """Lines end with LF or CRLF; empty ones are counted but skipped, and so is a byte order mark at the start.

    Threads may share it: a read moves no file position. Raises BatchError naming the file.
    """

    unit = "line"

    def __init__(self, path: Path, max_line_bytes: int = MAX_LINE_BYTES):
        self.path = path
        self.max_line_bytes = max_line_bytes
        self._starts, self._lengths, self._numbers = array("Q"), array("Q"), array("Q")
        self._fd = os.open(path, os.O_RDONLY)
        try:
            self.digest = self._index()
        except BaseException:
            self.close()
            raise
        self._seen = _version(self._fd)

    def __len__(self) -> int:
        return len(self._starts)

    def number(self, index: int) -> int:
        return self._numbers[index]

    def read(self, index: int) -> bytes:
        """The line without its end. Raises LineError where it is longer than may be held, BatchError if the file shrank."""
        length = self._lengths[index]
        if length > self.max_line_bytes:
            raise LineError(
                "line_too_long", f"{length} bytes, but a line may have {self.max_line_bytes} (split the request)"
            )
        data = os.pread(self._fd, length, self._starts[index])
        if len(data) != length:
            self._refuse_change()
        return data

    def check_unchanged(self) -> None:
        """Raise BatchError if the file was written to since it was indexed."""
        if _version(self._fd) != self._seen:
            self._refuse_change()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _refuse_change(self) -> None:
        raise BatchError(f"{self.path} was changed while it was read (--restart begins anew)")

    def _index(self) -> str:
        """Note every line that holds anything; returns the content's fingerprint."""
        digest = hashlib.blake2b(digest_size=16)
        self._line = 1
        self._begin, self._at, self._filled = 0, 0, False
        while chunk := os.pread(self._fd, CHUNK, self._at):
            digest.update(chunk)
            if self._at == 0:
                if chunk.startswith(UTF16):
                    raise BatchError(f"{self.path} is UTF-16 text, but lines are read as UTF-8 (save it as UTF-8)")
                self._begin = len(BOM) if chunk.startswith(BOM) else 0
            self._index_chunk(chunk)
            self._at += len(chunk)
        self._end_line(self._at)
        return digest.hexdigest()

    def _index_chunk(self, chunk: bytes) -> None:
        start = self._begin - self._at if self._begin > self._at else 0
        while (end := chunk.find(b"\n", start)) >= 0:
            self._filled = self._filled or bool(chunk[start:end].strip())
            self._end_line(self._at + end)
            self._begin = self._at + end + 1
            start = end + 1
        self._filled = self._filled or bool(chunk[start:].strip())

    def _end_line(self, end: int) -> None:
        if self._filled:
            self._starts.append(self._begin)
            self._lengths.append(end - self._begin)
            self._numbers.append(self._line)
        self._line += 1
        self._filled = False


def _version(fd: int) -> tuple[int, int]:
    state = os.fstat(fd)
    return state.st_size, state.st_mtime_ns
