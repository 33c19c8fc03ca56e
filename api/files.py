"""Uploads: a picture or video that jobs then name by its id."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response, UploadFile
from fastapi.routing import APIRoute

from api.deps import OWNER, PartsDep
from api.intake import CHUNK_BYTES, check_kind, limited
from shared.database import new_id
from shared.uploads import Upload


class SmallForm(Request):
    """A request whose form has few parts: each part of its own would be buffered."""

    def form(self, **_: Any) -> Any:
        """Read one file and some fields of 64 kB, no more."""
        return super().form(max_files=1, max_fields=16, max_part_size=64 * 1024)


class UploadRoute(APIRoute):
    """A route that takes a small form."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Give the handler another view of its request."""
        handle = super().get_route_handler()

        async def handle_small(request: Request) -> Response:
            return await handle(SmallForm(request.scope, request.receive))

        return handle_small


router = APIRouter(prefix="/v1/files", tags=["files"], route_class=UploadRoute)


def _view(upload: Upload) -> dict[str, Any]:
    return {"object": "file", "purpose": "vision", "status": "processed", **upload.__dict__}


async def _chunks(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await file.read(CHUNK_BYTES):
        yield chunk


@router.post("", status_code=201)
async def upload_file(file: UploadFile, parts: PartsDep) -> dict[str, Any]:
    """Store one picture (JPEG, PNG, WEBP, GIF, AVIF) or video (MP4, MOV, MKV, WEBM), told by its content, not by its name."""
    upload_id = new_id("file").replace("_", "-", 1)
    name = f"uploads/{upload_id}"
    try:
        chunks = limited(_chunks(file), max_bytes=parts.settings.max_upload_bytes)
        n_bytes, sha256, head = await parts.blobs.put(name, chunks)
        media_type = check_kind(head, None, param="file")
        now = int(time.time())
        upload = Upload(
            id=upload_id,
            bytes=n_bytes,
            created_at=now,
            expires_at=now + parts.settings.upload_ttl_s,
            filename=(file.filename or "")[:255],
            media_type=media_type,
            sha256=sha256,
        )
        await parts.uploads.add(upload, owner=OWNER)
    except BaseException:  # also while Redis is away, and when the client leaves
        await parts.blobs.delete(name)
        raise
    return _view(upload)


@router.get("/{file_id}")
async def get_file(file_id: str, parts: PartsDep) -> dict[str, Any]:
    """Read what is known of an upload."""
    return _view(await parts.uploads.get(file_id, owner=OWNER, param="file_id"))
