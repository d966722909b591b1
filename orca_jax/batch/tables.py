"""Parquet and ArrayRecord as random-access sources."""

import hashlib
from pathlib import Path
from typing import Any

from orca_jax.batch.words import BatchError


class ParquetColumn:
    """One column of a Parquet file, held in memory as a whole. Needs pyarrow; raises BatchError naming the file."""

    unit = "row"

    def __init__(self, path: Path, column: str):
        try:
            import pyarrow as pa
            import pyarrow.parquet as parquet
        except ModuleNotFoundError as error:
            raise BatchError(missing("Parquet", "pyarrow")) from error
        self._guard = _Unchanged(path)
        try:
            file = parquet.ParquetFile(path, memory_map=True)
            names = file.schema_arrow.names
            if column not in names:
                raise BatchError(f"{path} has no column {column!r} but {', '.join(names)} (--prompt-field)")
            self._cells = file.read(columns=[column]).column(0)
        except (pa.ArrowException, OSError) as error:
            raise BatchError(f"cannot read {path} as Parquet: {str(error).splitlines()[0]}") from error
        self.digest = self._guard.digest

    def __len__(self) -> int:
        return len(self._cells)

    def number(self, index: int) -> int:
        return index + 1

    def read(self, index: int) -> Any:
        """The cell as a Python value: text, a list of integers, None."""
        return self._cells[index].as_py()

    def check_unchanged(self) -> None:
        self._guard.check()

    def close(self) -> None:
        """Nothing to give back."""


class ArrayRecordFile:
    """The records of an ArrayRecord file, as bytes. Needs grain's reader; raises BatchError naming the file."""

    unit = "record"

    def __init__(self, path: Path):
        try:
            from grain.sources import ArrayRecordDataSource
        except ImportError as error:
            raise BatchError(missing("ArrayRecord", "array-record")) from error
        self._guard = _Unchanged(path)
        try:
            self._source = ArrayRecordDataSource([str(path)])
            self._length = len(self._source)
        except (OSError, RuntimeError, ValueError) as error:
            raise BatchError(f"cannot read {path} as ArrayRecord: {str(error).splitlines()[0]}") from error
        self.digest = self._guard.digest

    def __len__(self) -> int:
        return self._length

    def number(self, index: int) -> int:
        return index + 1

    def read(self, index: int) -> bytes:
        return bytes(self._source[index])

    def check_unchanged(self) -> None:
        self._guard.check()

    def close(self) -> None:
        """Nothing to give back: the reader ends with the object."""


class _Unchanged:
    """A file's fingerprint, and whether it has been written to since."""

    def __init__(self, path: Path):
        self._path = path
        with path.open("rb") as file:
            self.digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        self._seen = self._version()

    def check(self) -> None:
        if self._version() != self._seen:
            raise BatchError(f"{self._path} was changed while it was read (--restart begins anew)")

    def _version(self) -> tuple[int, int]:
        state = self._path.stat()
        return state.st_size, state.st_mtime_ns


def missing(what: str, package: str) -> str:
    return f"{what} files are read with {package}, which is not installed (pip install 'orca-jax[batch]')"
