"""Uploads: a form of one file, written to disk as it comes and never larger or longer on its way than its bounds."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from orca_jax.core.checks import shown
from orca_jax.core.errors import RequestError
from orca_jax.protocol.errors import ApiError
from orca_jax.server.files import MAX_FILE_BYTES, PURPOSE, Archive, checked_name, file_object
from orca_jax.server.http import check_length
from orca_jax.server.service import Service

FORM_OVERHEAD = 64 * 2**10  # boundaries, headers and the other fields
CHUNK = 2**20
MOST_SECONDS = 3600.0  # for a whole upload: the largest at half a megabit a second


async def take_upload(service: Service, archive: Archive, request: Request) -> dict[str, object]:
    """Store the form's file; returns its object. Raises RequestError and ApiError."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise ApiError(415, f"Content-Type must be multipart/form-data, got {shown(kind)}.")
    check_length(request, MAX_FILE_BYTES + FORM_OVERHEAD, too_large())
    # A form is a little larger than its file; the file itself is looked at again as it is stored.
    coming = int(request.headers.get("content-length", "0"))
    await service.crews.files.do(archive.check_room, max(0, coming - FORM_OVERHEAD))
    bounded = Request(request.scope, _bounded(request, MAX_FILE_BYTES + FORM_OVERHEAD, service.config.body_timeout))
    async with _errors_told(), bounded.form(max_files=1, max_fields=8, max_part_size=FORM_OVERHEAD) as form:
        file, purpose = form.get("file"), form.get("purpose")
        unknown = sorted(set(form) - {"file", "purpose"})
        if unknown:
            raise RequestError(f"{shown(unknown[0])} is not a field of an upload (file, purpose).", unknown[0][:80])
        if not isinstance(file, UploadFile):
            raise RequestError("an upload needs the field file.", "file")
        if purpose != PURPOSE:
            raise RequestError(f"purpose must be {PURPOSE!r}, got {shown(purpose)}.", "purpose")
        if not file.size:
            raise RequestError("the file is empty.", "file")
        return await service.crews.files.do(_keep, archive, file)


@asynccontextmanager
async def _errors_told() -> AsyncIterator[None]:
    """What may go wrong on the way, as an ApiError."""
    try:
        async with asyncio.timeout(MOST_SECONDS):
            yield
    except HTTPException as error:  # what starlette says of a malformed form
        raise ApiError(400, str(error.detail)) from error
    except ClientDisconnect as error:
        raise ApiError(400, "The client left before its file had arrived.") from error
    except TimeoutError as error:
        raise ApiError(408, f"The file did not arrive within {MOST_SECONDS:g} seconds.") from error
    except OSError as error:
        raise ApiError(507, f"The file cannot be stored: {error.strerror}.", kind="server_error") from error


def _keep(archive: Archive, upload: UploadFile) -> dict[str, object]:
    with archive.writing:
        archive.check_room(upload.size or 0)
        file_id, path = archive.store.new_file_path()
        try:
            with path.open("xb") as file:
                while part := upload.file.read(CHUNK):
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            Path(path).unlink(missing_ok=True)
            raise
    return file_object(archive.store.add_file(file_id, checked_name(upload.filename), PURPOSE, path))


def _bounded(request: Request, most: int, patience: float) -> Receive:
    """The request's `receive`, which refuses to bring more than `most` bytes, or to wait longer for the next ones."""
    received = 0

    async def receive() -> Message:
        nonlocal received
        try:
            async with asyncio.timeout(patience):
                message = await request.receive()
        except TimeoutError as error:
            raise ApiError(408, f"Nothing of the file arrived for {patience:g} seconds (--body-timeout).") from error
        received += len(message.get("body", b""))
        if received > most:
            raise too_large()
        return message

    return receive


def too_large() -> ApiError:
    return ApiError(413, f"The file is larger than {MAX_FILE_BYTES} bytes, the most that an upload may have.")
