"""What a server keeps of files and batches: rows in SQLite, contents in a folder beside it, whole after any crash."""

import fcntl
import json
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_jax.batch.words import BatchError

LAYOUT = 1
SCHEMA = """
CREATE TABLE files (id TEXT PRIMARY KEY, purpose TEXT NOT NULL, filename TEXT NOT NULL, bytes INTEGER NOT NULL,
                    created_at INTEGER NOT NULL, path TEXT NOT NULL);
CREATE TABLE batches (id TEXT PRIMARY KEY, endpoint TEXT NOT NULL, input_file_id TEXT NOT NULL, status TEXT NOT NULL,
                      created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, times TEXT NOT NULL DEFAULT '{}',
                      output_file_id TEXT, error_file_id TEXT, errors TEXT, metadata TEXT,
                      total INTEGER NOT NULL DEFAULT 0, completed INTEGER NOT NULL DEFAULT 0,
                      failed INTEGER NOT NULL DEFAULT 0);
"""
ENDED = ("failed", "completed", "expired", "cancelled")


@dataclass(frozen=True, slots=True)
class File:
    """A file that was uploaded or that a batch has made. `path` is relative to the store's folder, times in seconds."""

    id: str
    purpose: str
    filename: str
    bytes: int
    created_at: int
    path: str


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as it stands. `times` maps states to the second in which they began."""

    id: str
    endpoint: str
    input_file_id: str
    status: str
    created_at: int
    expires_at: int
    times: dict[str, int]
    output_file_id: str | None
    error_file_id: str | None
    errors: list[dict[str, Any]] | None
    metadata: dict[str, str] | None
    total: int
    completed: int
    failed: int

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class Store:
    """Files and batches, for any thread. One process has a folder at a time. Raises BatchError where it cannot be had."""

    def __init__(self, folder: Path, now: Callable[[], float] = time.time):
        self.folder = folder
        self._now = now
        self._mutex = threading.RLock()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # nobody else's: it holds what clients sent
            (folder / "files").mkdir(exist_ok=True, mode=0o700)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._rows = sqlite3.connect(folder / "orca_jax.sqlite3", check_same_thread=False, isolation_level=None)
        except BlockingIOError as error:
            os.close(self._lock)
            raise BatchError(f"{folder} is in use by another server (--data-dir)") from error
        except (OSError, sqlite3.Error) as error:
            raise BatchError(f"cannot keep files in {folder}: {error} (--data-dir)") from error
        self._prepare()

    def close(self) -> None:
        with self._mutex:
            self._rows.close()
            os.close(self._lock)

    def path(self, file: File) -> Path:
        return self.folder / file.path

    def new_file_path(self) -> tuple[str, Path]:
        """An id and where the contents of a file with it go, before `add_file` makes them one."""
        file_id = f"file-{uuid.uuid4().hex}"
        return file_id, self.folder / "files" / file_id

    def add_file(self, file_id: str, filename: str, purpose: str, path: Path) -> File:
        """Make known a file whose contents are complete."""
        with self._mutex:
            file = self._file_row(file_id, filename, purpose, path)
            self._insert("files", file)
        return file

    def file(self, file_id: str) -> File | None:
        return next((File(*row) for row in self._select("SELECT * FROM files WHERE id = ?", file_id)), None)

    def files(self) -> list[File]:
        """The newest first."""
        return [File(*row) for row in self._select("SELECT * FROM files ORDER BY created_at DESC, rowid DESC")]

    def delete_file(self, file: File) -> None:
        """Raises BatchError where a batch still reads it."""
        with self._mutex:
            users = self._select(
                "SELECT id FROM batches WHERE input_file_id = ? AND status NOT IN (?, ?, ?, ?)", file.id, *ENDED
            )
            if users:
                raise BatchError(f"{file.id} is read by {users[0][0]} (cancel it first)")
            self._select("DELETE FROM files WHERE id = ?", file.id)
            self.path(file).unlink(missing_ok=True)

    def add_batch(self, endpoint: str, input_file_id: str, window: int, metadata: dict[str, str] | None) -> Batch:
        """A new batch in state "validating", which expires `window` seconds from now."""
        now = int(self._now())
        batch_id = f"batch_{uuid.uuid4().hex}"
        with self._mutex:
            self._select(
                "INSERT INTO batches (id, endpoint, input_file_id, status, created_at, expires_at, metadata) "
                "VALUES (?, ?, ?, 'validating', ?, ?, ?)",
                batch_id, endpoint, input_file_id, now, now + window, None if metadata is None else json.dumps(metadata),
            )  # fmt: skip
            return self.known_batch(batch_id)

    def batch(self, batch_id: str) -> Batch | None:
        return next(iter(self._batches("WHERE id = ?", batch_id)), None)

    def known_batch(self, batch_id: str) -> Batch:
        found = self.batch(batch_id)
        if found is None:
            raise BatchError(f"there is no batch {batch_id}")
        return found

    def batches(self) -> list[Batch]:
        """The newest first."""
        return self._batches("ORDER BY created_at DESC, rowid DESC")

    def unfinished(self) -> list[Batch]:
        """The oldest first."""
        return self._batches("WHERE status NOT IN (?, ?, ?, ?) ORDER BY created_at, rowid", *ENDED)

    def advance(self, batch_id: str, status: str, *, only_from: Sequence[str], **columns: Any) -> Batch:
        """Bring a batch into another state and note when, unless it has left the states that this may follow."""
        with self._transaction():
            batch = self.known_batch(batch_id)
            if batch.status in only_from:
                times = {**batch.times, status: int(self._now())}
                values = {"status": status, "times": json.dumps(times), **columns}
                names = ", ".join(f"{name} = ?" for name in values)
                self._select(f"UPDATE batches SET {names} WHERE id = ?", *values.values(), batch_id)
            return self.known_batch(batch_id)

    def count(self, batch_id: str, total: int, completed: int, failed: int) -> None:
        self._select(
            "UPDATE batches SET total = ?, completed = ?, failed = ? WHERE id = ?", total, completed, failed, batch_id
        )

    def end(self, batch_id: str, status: str, output: Path | None, errors: Path | None) -> Batch:
        """End a batch and make its results files, both or neither: a crash in between is as one before."""
        with self._transaction():
            ids = [self._result(batch_id, kind, path) for kind, path in (("output", output), ("error", errors))]
            return self.advance(
                batch_id, status, only_from=("validating", "in_progress", "finalizing", "cancelling"),
                output_file_id=ids[0], error_file_id=ids[1],
            )  # fmt: skip

    def _result(self, batch_id: str, kind: str, path: Path | None) -> str | None:
        if path is None or not path.exists() or not path.stat().st_size:
            return None
        file = self._file_row(f"file-{uuid.uuid4().hex}", f"{batch_id}_{kind}.jsonl", "batch_output", path)
        self._insert("files", file)
        return file.id

    def _file_row(self, file_id: str, filename: str, purpose: str, path: Path) -> File:
        relative = path.relative_to(self.folder).as_posix()
        return File(file_id, purpose, filename, path.stat().st_size, int(self._now()), relative)

    def _insert(self, table: str, file: File) -> None:
        row = (file.id, file.purpose, file.filename, file.bytes, file.created_at, file.path)
        self._select(f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?, ?)", *row)

    def _batches(self, clause: str, *values: Any) -> list[Batch]:
        columns = (
            "id, endpoint, input_file_id, status, created_at, expires_at, times, output_file_id, error_file_id, errors, "
            "metadata, total, completed, failed"
        )
        return [_batch(row) for row in self._select(f"SELECT {columns} FROM batches {clause}", *values)]

    def _select(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        try:
            with self._mutex:
                return self._rows.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise BatchError(f"cannot read or write {self.folder}: {error}") from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing; one within another belongs to it."""
        with self._mutex:
            if self._rows.in_transaction:
                yield
                return
            self._select("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._select("ROLLBACK")
                raise
            self._select("COMMIT")

    def _prepare(self) -> None:
        self._select("PRAGMA journal_mode = WAL")
        self._select("PRAGMA synchronous = FULL")
        version = self._select("PRAGMA user_version")[0][0]
        if version == 0:
            with self._transaction():
                for statement in SCHEMA.split(";"):
                    self._select(statement)
                self._select(f"PRAGMA user_version = {LAYOUT}")
        elif version != LAYOUT:
            self.close()
            raise BatchError(f"{self.folder} was written by another version of orca_jax (--data-dir)")


def _batch(row: tuple[Any, ...]) -> Batch:
    values = list(row)
    for place in (6, 9, 10):  # times, errors, metadata
        values[place] = None if values[place] is None else json.loads(values[place])
    return Batch(*values)


def sweep(store: Store) -> None:
    """Remove what nothing refers to: uploads that a crash cut off, and what ended batches have left over.

    Only before there are uploads and a worker: what they are writing is not in the tables yet.
    """
    known = {store.path(file) for file in store.files()}
    going = {batch.id for batch in store.unfinished()}
    for path in [*store.folder.glob("files/*"), *store.folder.glob("batches/*/*")]:
        if path not in known and path.parent.name not in going:
            path.unlink(missing_ok=True)
