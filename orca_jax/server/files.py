"""Files and batches as clients see them, and what is needed to keep them: a folder, a worker, bounds."""

import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orca_jax.batch.store import Batch, File, Store
from orca_jax.batch.worker import BatchWorker
from orca_jax.core.checks import shown
from orca_jax.core.errors import RequestError
from orca_jax.core.naming import check_names
from orca_jax.protocol.errors import ApiError

MAX_FILE_BYTES = 200 * 2**20
WINDOWS = {"24h": 24 * 3600}
PURPOSE = "batch"
MAX_NAME = 255
MAX_METADATA = 16
MAX_METADATA_KEY = 64
MAX_METADATA_VALUE = 512
MAX_PAGE = 10_000
STATES = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


class Archive:
    """A store with the worker that answers its batches. Beyond `most_bytes` nothing more is taken."""

    def __init__(self, store: Store, worker: BatchWorker, most_bytes: int):
        self.store = store
        self.worker = worker
        self.writing = threading.Lock()
        """Held from the look for room until the room is taken."""
        self._most_bytes = most_bytes

    def check_room(self, more: int) -> None:
        """Raise ApiError (507) where so many bytes more would be too many. Looks at the disk: results grow, too."""
        paths = (Path(folder, name) for folder, _, names in os.walk(self.store.folder) for name in names)
        used = sum(path.lstat().st_size for path in paths)
        if used + more > self._most_bytes:
            raise ApiError(
                507, f"There is no room: files and batches take {used} bytes, {more} more are asked for, and "
                f"{self._most_bytes} are the most (delete files, or --max-data-bytes).", kind="server_error",
                code="no_room",
            )  # fmt: skip

    def file(self, file_id: str) -> File:
        found = self.store.file(file_id)
        if found is None:
            raise ApiError(404, f"No such file: {shown(file_id)}.", code="file_not_found", param="file_id")
        return found

    def batch(self, batch_id: str) -> Batch:
        found = self.store.batch(batch_id)
        if found is None:
            raise ApiError(404, f"No such batch: {shown(batch_id)}.", code="batch_not_found", param="batch_id")
        return found

    def close(self) -> None:
        self.worker.close()
        self.store.close()


def file_object(file: File) -> dict[str, Any]:
    return {
        "id": file.id, "object": "file", "bytes": file.bytes, "created_at": file.created_at, "filename": file.filename,
        "purpose": file.purpose, "status": "processed",
    }  # fmt: skip


def batch_object(batch: Batch) -> dict[str, Any]:
    """OpenAI's object, with a time for each state that has been reached."""
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": None if batch.errors is None else {"object": "list", "data": batch.errors},
        "input_file_id": batch.input_file_id,
        "completion_window": "24h",
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": batch.created_at,
        "expires_at": batch.expires_at,
        **{f"{state}_at": batch.times.get(state) for state in STATES},
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "metadata": batch.metadata,
    }


def page(items: Iterable[dict[str, Any]], after: str | None, limit: int) -> dict[str, Any]:
    """One page of a list, beginning after the item of that id."""
    rest = list(items)
    if after is not None:
        place = next((number for number, item in enumerate(rest) if item["id"] == after), None)
        if place is None:
            raise RequestError(f"after names {shown(after)}, which is not in the list.", "after")
        rest = rest[place + 1 :]
    data = rest[:limit]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(rest) > len(data),
    }


def read_query(asked: Mapping[str, str], known: tuple[str, ...]) -> Mapping[str, str]:
    """The query of a list. Raises RequestError for a name that means nothing here."""
    check_names("the query", asked, known, {})
    return asked


def ascending(order: str | None) -> bool:
    """A query's `order`, of which "desc" is the default. Raises RequestError."""
    if order not in (None, "asc", "desc"):
        raise RequestError(f"order must be asc or desc, got {shown(order)}.", "order")
    return order == "asc"


def page_size(value: str | None, default: int, most: int) -> int:
    """A query's `limit`. Raises RequestError."""
    if value is None:
        return default
    if not (value.isascii() and value.isdigit() and len(value) < 9 and 1 <= int(value) <= most):
        raise RequestError(f"limit must be 1 to {most}, got {shown(value)}.", "limit")
    return int(value)


def check_metadata(metadata: dict[str, str] | None) -> None:
    """OpenAI's bounds: 16 pairs, keys of 64 and values of 512 characters."""
    if metadata is None:
        return
    if len(metadata) > MAX_METADATA:
        raise RequestError(f"metadata must have at most {MAX_METADATA} pairs, got {len(metadata)}.", "metadata")
    for key, value in metadata.items():
        if len(key) > MAX_METADATA_KEY or len(value) > MAX_METADATA_VALUE:
            raise RequestError(
                f"metadata keys may have {MAX_METADATA_KEY} and values {MAX_METADATA_VALUE} characters; "
                f"{shown(key)} is longer.",
                "metadata",
            )


def checked_name(name: str | None) -> str:
    """A file's name as it will be shown: no folders, nothing that cannot be printed."""
    last = (name or "upload").replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(part if part.isprintable() else "_" for part in last)[:MAX_NAME] or "upload"
