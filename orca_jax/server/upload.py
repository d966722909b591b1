"""Uploads: a form of one file, written to disk as it comes and never larger than its bound."""

import os
from pathlib import Path

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive

from orca_jax.core.checks import shown
from orca_jax.core.errors import RequestError
from orca_jax.protocol.errors import ApiError
from orca_jax.server.files import MAX_FILE_BYTES, PURPOSE, Archive, checked_name, file_object
from orca_jax.server.http import check_length, too_large
from orca_jax.server.service import Service

FORM_OVERHEAD = 64 * 2**10  # boundaries, headers and the other fields
CHUNK = 2**20


async def take_upload(service: Service, archive: Archive, request: Request) -> dict[str, object]:
    """Store the form's file; returns its object. Raises RequestError and ApiError."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise ApiError(415, f"Content-Type must be multipart/form-data, got {shown(kind)}.")
    check_length(request, MAX_FILE_BYTES + FORM_OVERHEAD)
    bounded = Request(request.scope, _bounded(request, MAX_FILE_BYTES + FORM_OVERHEAD))
    try:
        async with bounded.form(max_files=1, max_fields=8, max_part_size=FORM_OVERHEAD) as form:
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
            return await service.aside(_keep, archive, file)
    except HTTPException as error:  # what starlette says of a malformed form
        raise ApiError(400, str(error.detail)) from error


def _keep(archive: Archive, upload: UploadFile) -> dict[str, object]:
    file_id, path = archive.store.new_file_path()
    try:
        with path.open("xb") as file:
            while part := upload.file.read(CHUNK):
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        Path(path).unlink(missing_ok=True)
        raise ApiError(507, f"The file cannot be stored: {error.strerror}.", kind="server_error") from error
    return file_object(archive.store.add_file(file_id, checked_name(upload.filename), PURPOSE, path))


def _bounded(request: Request, most: int) -> Receive:
    """The request's `receive`, which refuses to bring more than `most` bytes."""
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > most:
            raise too_large(MAX_FILE_BYTES)
        return message

    return receive
