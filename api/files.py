"""Files: pictures and videos that jobs name by their ids, and the inputs and outputs of batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Query, UploadFile
from fastapi.responses import StreamingResponse

from api import answers
from api.authentication import KeyedRoute, OwnerDep
from api.intake import CHUNK_BYTES, limited
from api.services import Services, ServicesDep
from shared.blobs import upload_name
from shared.errors import InvalidRequest, MediaUnreadable, NotFound, UploadUnknown
from shared.media_types import check_kind
from shared.store.ids import new_id
from shared.store.uploads import Upload

JSONL = "application/jsonl"
_BYTES = {"schema": {"type": "string", "format": "binary"}}
_CONTENT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the file",
        "content": dict.fromkeys(("application/octet-stream", "image/*", "video/*", JSONL), _BYTES),
    }
}


router = APIRouter(prefix="/v1/files", tags=["files"], route_class=KeyedRoute)


def _view(upload: Upload) -> dict[str, Any]:
    return {"object": "file", "status": "processed", **upload.__dict__}


async def _find(file_id: str, owner: str, services: Services) -> Upload:
    try:
        return await services.uploads.get(file_id, owner=owner)
    except UploadUnknown as error:
        raise NotFound("there is no file by that id") from error


def _file_name(given: str) -> str:
    """Undo what browsers and httpx do to a name in a form: the three characters that would end it are sent as escapes.

    Raises:
        InvalidRequest: it holds half a surrogate pair; what is not UTF-8 was read as Latin-1, which hides it.
    """
    try:
        given.encode("latin-1").decode("utf-8", "surrogatepass").encode()
    except UnicodeDecodeError:
        pass  # it really is Latin-1
    except UnicodeEncodeError as error:
        if "surrogates" in error.reason:
            raise InvalidRequest("the file's name holds half a surrogate pair, which is no character", param="file") from error
    for escape, character in {"%22": '"', "%0D": "\r", "%0A": "\n"}.items():
        given = given.replace(escape, character)
    return given[:255]


async def _chunks(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await file.read(CHUNK_BYTES):
        yield chunk


@router.post("", status_code=201, response_model=answers.File)
async def upload_file(
    file: UploadFile,
    services: ServicesDep,
    owner: OwnerDep,
    purpose: Annotated[Literal["vision", "user_data", "batch"], Form()] = "vision",
    expires_s: Annotated[int | None, Form(alias="expires_after[seconds]", ge=3600)] = None,
) -> dict[str, Any]:
    """Store a picture (JPEG, PNG, HEIC, TIFF ...) or video (MP4, MOV, MKV, AVI ...), recognised by content, not by name.

    With the purpose ``batch``: the input of a batch, one JSON object a line.
    """
    upload_id = new_id("file").replace("_", "-", 1)
    name = upload_name(upload_id)
    filename = _file_name(file.filename or "")
    ttl_s = min(expires_s or services.settings.upload_ttl_s, services.settings.upload_ttl_s)
    try:
        chunks = limited(_chunks(file), max_bytes=services.settings.max_upload_bytes)
        n_bytes, sha256, head = await services.blobs.put(name, chunks)
        upload = await services.uploads.add(
            upload_id,
            owner=owner,
            ttl_s=ttl_s,
            bytes=n_bytes,
            filename=filename,
            media_type=JSONL if purpose == "batch" else check_kind(head, None, param="file"),
            sha256=sha256,
            purpose=purpose,
        )
    except BaseException:  # also while Redis is away, and when the client leaves
        await asyncio.shield(services.blobs.discard(name))
        raise
    return _view(upload)


@router.get("", response_model=answers.FilePage)
async def list_files(
    services: ServicesDep,
    owner: OwnerDep,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: str | None = None,
    purpose: str | None = None,
) -> dict[str, Any]:
    """List files, newest first; ``after`` takes the ``last_id`` of the page before."""
    files, more = await services.uploads.list_uploads(owner=owner, limit=limit, after=after, purpose=purpose)
    return page([_view(upload) for upload in files], more=more)


def page(data: list[dict[str, Any]], *, more: bool) -> dict[str, Any]:
    """Make the body of a list."""
    ids = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, "has_more": more, **ids}


@router.get("/{file_id}", response_model=answers.File)
async def get_file(file_id: str, services: ServicesDep, owner: OwnerDep) -> dict[str, Any]:
    """Read what is known of a file."""
    return _view(await _find(file_id, owner, services))


@router.get("/{file_id}/content", response_class=StreamingResponse, responses=_CONTENT)
async def get_content(file_id: str, services: ServicesDep, owner: OwnerDep) -> StreamingResponse:
    """Read a file's bytes."""
    upload = await _find(file_id, owner, services)
    pieces = services.blobs.stream(upload.blob, upload.bytes)
    try:
        first = await anext(pieces, b"")  # before the answer begins, so that it can still say that the file is out of reach
    except MediaUnreadable as error:
        raise NotFound("that file's content is no longer there") from error

    async def all_pieces() -> AsyncIterator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    headers = {
        "content-disposition": "attachment",
        "content-security-policy": "default-src 'none'; sandbox",  # whatever a browser makes of it, it is not our origin's
        "x-content-type-options": "nosniff",
        "content-length": str(upload.bytes),
    }
    return StreamingResponse(all_pieces(), media_type=upload.media_type, headers=headers)


@router.delete("/{file_id}", response_model=answers.Deleted)
async def delete_file(file_id: str, services: ServicesDep, owner: OwnerDep) -> dict[str, Any]:
    """Delete a file; jobs that name it and have not read it fail. One that an open batch reads stays."""
    await _find(file_id, owner, services)
    await remove_file(file_id, services, owner=owner)
    return {"id": file_id, "object": "file", "deleted": True}


async def remove_file(file_id: str, services: Services, *, owner: str) -> None:
    """Remove a file and its record. If this process dies midway, a worker finishes the removal.

    Raises:
        FileInUse: an open batch reads it.
    """
    await services.uploads.expire(file_id, owner=owner)
    if await services.blobs.discard(upload_name(file_id)):
        await services.uploads.forget((file_id, owner))
