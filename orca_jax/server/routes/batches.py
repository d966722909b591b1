"""Files and batches: OpenAI's API for work that can wait, over the runner of `orca-jax batch`."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from orca_jax.batch.words import BatchError
from orca_jax.core.checks import shown
from orca_jax.core.errors import RequestError
from orca_jax.core.unsupported import Neutral
from orca_jax.protocol.answers import BatchesAnswer, BatchShape, FileDeleted, FilesAnswer, FileShape
from orca_jax.protocol.body import Body
from orca_jax.protocol.body import read_body as read_fields
from orca_jax.protocol.calls import URLS
from orca_jax.protocol.errors import ApiError
from orca_jax.protocol.json_text import read_json
from orca_jax.server.documents import query, responses, takes, uploads
from orca_jax.server.files import (
    MAX_PAGE,
    WINDOWS,
    Archive,
    ascending,
    batch_object,
    check_metadata,
    file_object,
    page,
    page_size,
    read_query,
)
from orca_jax.server.http import JsonAnswer, read_body
from orca_jax.server.service import Service
from orca_jax.server.upload import take_upload

REFUSED: Neutral = {"output_expires_after": (None,)}
FILES_QUERY = ("after", "limit", "order", "purpose")
BATCHES_QUERY = ("after", "limit")
BAD = (400, 401, 404, 429, 501)
BODY = (*BAD, 408, 413, 415, 500)


class Download(FileResponse):
    """A file on its way to a client, for which a shutdown waits."""

    def __init__(self, service: Service, path: Path, name: str):
        super().__init__(path, media_type="application/jsonl", filename=name)
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._service.in_flight():
            await super().__call__(scope, receive, send)


class BatchBody(Body):
    """The body of POST /v1/batches."""

    input_file_id: str
    endpoint: str = Field(description=" or ".join(URLS), json_schema_extra={"enum": list(URLS)})
    completion_window: str = Field(json_schema_extra={"enum": list(WINDOWS)})
    metadata: dict[str, str] | None = None


def routes(service: Service) -> APIRouter:
    router = APIRouter(tags=["batches"])
    _add_files(router, service)
    _add_batches(router, service)
    return router


def _add_files(router: APIRouter, service: Service) -> None:
    @router.post("/v1/files", openapi_extra=uploads(), responses=responses(FileShape, errors=(*BODY, 507)))
    async def upload(request: Request) -> JsonAnswer:
        """Upload a file of batch lines, at most 200 MB."""
        service.check_open()
        async with service.in_flight():
            return JsonAnswer(await take_upload(service, archive_of(service), request))

    @router.get("/v1/files", openapi_extra=query(*FILES_QUERY), responses=responses(FilesAnswer, errors=BAD))
    async def files(request: Request) -> JsonAnswer:
        """Uploaded files and those that batches have made, the newest first."""
        asked = read_query(request.query_params, FILES_QUERY)
        limit = page_size(asked.get("limit"), MAX_PAGE, MAX_PAGE)
        found = await service.crews.files.do(archive_of(service).store.files)
        wanted = [file_object(file) for file in found if asked.get("purpose") in (None, file.purpose)]
        wanted = wanted[::-1] if ascending(asked.get("order")) else wanted
        return JsonAnswer(page(wanted, asked.get("after"), limit))

    @router.get("/v1/files/{file_id}", responses=responses(FileShape, errors=BAD))
    async def file(file_id: str) -> JsonAnswer:
        """What is known of a file."""
        return JsonAnswer(file_object(await service.crews.files.do(archive_of(service).file, file_id)))

    @router.delete("/v1/files/{file_id}", responses=responses(FileDeleted, errors=(*BAD, 409)))
    async def delete(file_id: str) -> JsonAnswer:
        """Forget a file; one that a batch still reads stays."""
        archive = archive_of(service)
        found = await service.crews.files.do(archive.file, file_id)
        try:
            await service.crews.files.do(archive.store.delete_file, found)
        except BatchError as error:
            raise ApiError(409, str(error), code="file_in_use", param="file_id") from error
        return JsonAnswer({"id": file_id, "object": "file", "deleted": True})

    @router.get("/v1/files/{file_id}/content", responses=responses(None, errors=BAD))
    async def content(file_id: str) -> Response:
        """The file's contents."""
        archive = archive_of(service)
        found = await service.crews.files.do(archive.file, file_id)
        return Download(service, archive.store.path(found), found.filename)


def _add_batches(router: APIRouter, service: Service) -> None:
    @router.post("/v1/batches", openapi_extra=takes(BatchBody), responses=responses(BatchShape, errors=(*BODY, 507)))
    async def create(request: Request) -> JsonAnswer:
        """Answer an uploaded file's lines, one batch after another, beside the server's other clients."""
        service.check_open()
        async with service.in_flight():
            data = await read_body(request, service.config)
            return JsonAnswer(await service.crews.files.do(_create, archive_of(service), data))

    @router.get("/v1/batches", openapi_extra=query(*BATCHES_QUERY), responses=responses(BatchesAnswer, errors=BAD))
    async def batches(request: Request) -> JsonAnswer:
        """All batches, the newest first."""
        asked = read_query(request.query_params, BATCHES_QUERY)
        limit = page_size(asked.get("limit"), 20, 100)
        found = await service.crews.files.do(archive_of(service).store.batches)
        return JsonAnswer(page(map(batch_object, found), asked.get("after"), limit))

    @router.get("/v1/batches/{batch_id}", responses=responses(BatchShape, errors=BAD))
    async def batch(batch_id: str) -> JsonAnswer:
        """How far a batch is."""
        return JsonAnswer(batch_object(await service.crews.files.do(archive_of(service).batch, batch_id)))

    @router.post("/v1/batches/{batch_id}/cancel", responses=responses(BatchShape, errors=(*BAD, 409)))
    async def cancel(batch_id: str) -> JsonAnswer:
        """End a batch; what is answered by then becomes its output."""
        archive = archive_of(service)
        found = await service.crews.files.do(archive.batch, batch_id)
        if found.ended:
            raise ApiError(409, f"{batch_id} has ended: it is {found.status}.", code="batch_ended", param="batch_id")
        return JsonAnswer(batch_object(await service.crews.files.do(archive.worker.cancel, found)))


def archive_of(service: Service) -> Archive:
    """Raises ApiError where this server keeps no files."""
    if service.archive is None:
        raise ApiError(501, "This server keeps no files and batches (--data-dir FOLDER).", code="no_data_dir")
    return service.archive


def _create(archive: Archive, data: bytes) -> dict[str, Any]:
    body = read_fields(BatchBody, read_json(data), REFUSED, "/v1/batches")
    if body.endpoint not in URLS:
        raise RequestError(f"endpoint must be one of {', '.join(URLS)}, got {shown(body.endpoint)}.", "endpoint")
    if body.completion_window not in WINDOWS:
        raise RequestError(
            f"completion_window must be '24h', got {shown(body.completion_window)}.", "completion_window"
        )
    check_metadata(body.metadata)
    source = archive.store.file(body.input_file_id)
    if source is None:
        raise ApiError(400, f"No such file: {shown(body.input_file_id)}.", code="file_not_found", param="input_file_id")
    if source.purpose != "batch":
        raise RequestError(f"{source.id} is a batch's result, not an upload.", "input_file_id")
    archive.check_room(0)
    batch = archive.store.add_batch(body.endpoint, source.id, WINDOWS[body.completion_window], body.metadata)
    archive.worker.wake()
    return batch_object(batch)
