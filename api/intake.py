"""What comes in with a request: its parts are looked at once, and inline media taken out of it."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

from api.data_urls import decode_data_url, frames_of, is_data_url
from api.services import Services
from shared.address_guard import check_url, tidy_url
from shared.blobs import inline_name
from shared.errors import BadMediaReference, BodyTooLarge, InvalidRequest, ReservedToken, UnsupportedMedia
from shared.jobs import JobRequest
from shared.media_types import HEAD_BYTES, Kind, check_kind, kind_of, serves_as
from shared.messages import FilePart, ImagePart, Message, Part, TextPart, VideoPart
from shared.reserved_tokens import find_reserved
from shared.settings import Settings

CHUNK_BYTES = 2**20
#: What a job's attempts may lie apart, in all: pauses before a retry, leases of lost workers.
BETWEEN_RUNS_S = 3600.0


async def take_in(
    request: JobRequest, job_id: str, services: Services, *, owner: str, chat: bool = False
) -> tuple[JobRequest, dict[str, bytes]]:
    """Check a request as far as it can be known now; a chat needs no media.

    Returns:
        The request as it is written down, small: every data-URL is replaced by the name of a file; and those files, by their
        names, still to be stored.

    Raises:
        InvalidRequest: one of its kinds.
        ModelNotReady: the model that it names has workers, and none is ready.
        UnsupportedMedia: a file that is no picture or video.
    """
    settings = services.settings
    counted: dict[str, Any] = {"max_images": settings.limit_images, "max_videos": settings.limit_videos, "chat": chat}
    request.check(**counted)
    await services.models.check(request.model)
    if request.webhook:
        check_webhook(request.webhook.url, settings)
    _refuse_reserved_json("tools", request.tools)
    intake = _Intake(job_id, services, owner, needed_s(request, settings))
    messages = [await intake.message(f"messages.{m}", message) for m, message in enumerate(request.messages)]
    stored = request.model_copy(update={"messages": messages})
    stored.check(**counted)  # again: files of either kind are known now
    return stored, intake.inline


def check_webhook(url: str, settings: Settings) -> None:
    """Refuse a webhook that could not be sent.

    Raises:
        InvalidRequest: nothing could sign it, or its address is none that may be contacted.
    """
    if settings.webhook_secret is None:
        msg = "webhooks are off: the service has no SIGHTLINE_WEBHOOK_SECRET; `sightline secret` makes one"
        raise InvalidRequest(msg, param="webhook")
    check_url(url, settings, param="webhook.url")


class _Intake:
    """Walks over the parts of a request once, and gathers the files that came in it."""

    def __init__(self, job_id: str, services: Services, owner: str, keep_s: float) -> None:
        """Begin without files; uploads that are named will be kept for ``keep_s``."""
        self._job_id, self._services, self._owner, self._keep_s = job_id, services, owner, keep_s
        self.inline = dict[str, bytes]()
        self._n_media = 0

    async def message(self, path: str, message: Message) -> Message:
        """Check a message; its media become references to what is stored."""
        _refuse_reserved(path, message)
        _refuse_reserved_json(f"{path}.tool_calls", [call.model_dump() for call in message.tool_calls])
        if isinstance(message.content, str):
            return message
        content = [await self._part(f"{path}.content.{p}", part) for p, part in enumerate(message.content)]
        return message.model_copy(update={"content": content})

    async def _part(self, path: str, part: Part | FilePart) -> Part:
        match part:
            case TextPart():
                return part
            case ImagePart():
                reference, _ = await self._reference(part.image, "image", path)
                return part.model_copy(update={"image": reference})
            case VideoPart():
                frames = frames_of(part.video)
                if frames is not None:
                    kept = [(await self._reference(frame, "image", path))[0] for frame in frames]
                    return part.model_copy(update={"video": kept})
                reference, _ = await self._reference(str(part.video), "video", path)
                return part.model_copy(update={"video": reference})
        reference, kind = await self._reference(part.file, None, path)
        wishes = {name: value for name, value in part if value is not None and name not in {"type", "file"}}
        if kind == "video":
            return VideoPart(type="video", video=reference, **wishes)
        wishes.pop("fps", None)
        return ImagePart(type="image", image=reference, **wishes)

    async def _reference(self, given: str, kind: Kind | None, path: str) -> tuple[str, Kind]:
        """Check what a picture or video is named by; a data-URL becomes a file, named after its place among the media.

        Args:
            given: an address, a data-URL or an upload's id.
            kind: what it is used as; None where the file says it.
            path: of its part.

        Returns:
            The reference to store, and its kind.
        """
        settings, place = self._services.settings, self._n_media
        self._n_media += 1
        given = tidy_url(given)
        if is_data_url(given):
            data = decode_data_url(given, param=path, max_bytes=settings.max_body_bytes)
            found = kind_of(check_kind(data[:HEAD_BYTES], kind, param=path))
            name = inline_name(self._job_id, place)
            self.inline[name] = data
            return f"blob:{name}", kind or found
        if given.startswith(("http://", "https://")):
            check_url(given, settings, param=path)
            media_type, _ = mimetypes.guess_type(urlsplit(given).path)
            return given, kind or ("video" if (media_type or "").startswith("video/") else "image")
        if given.startswith("file-"):
            upload = await self._services.uploads.get(given, owner=self._owner, param=path, keep_s=self._keep_s)
            if kind and not serves_as(upload.media_type, kind):
                msg = f"the upload {upload.id} is of type {upload.media_type}"
                raise UnsupportedMedia(msg, param=path)
            return given, kind or kind_of(upload.media_type)
        raise BadMediaReference(param=path)


def _refuse_reserved(path: str, message: Message) -> None:
    found = find_reserved([part.text if isinstance(part, TextPart) else None for part in message.parts])
    if found:
        part, word = found
        msg = f"the text holds {word}, which steers the model; write it another way, for example with a space in it"
        raise ReservedToken(msg, param=f"{path}.content" if isinstance(message.content, str) else f"{path}.content.{part}")


def _refuse_reserved_json(path: str, given: list[dict[str, Any]]) -> None:
    """Look into what stands in the prompt as JSON."""
    if given and (found := find_reserved([json.dumps(given, ensure_ascii=False)])):
        raise ReservedToken(f"it holds {found[1]}, which steers the model", param=path)


def needed_s(request: JobRequest, settings: Settings) -> float:
    """Say how long a job's files may be needed: while it waits for its start, and for all its attempts."""
    runs_s = settings.max_attempts * (request.run_timeout_s or settings.run_timeout_s)
    return (request.start_deadline_s or settings.start_deadline_s) + runs_s + BETWEEN_RUNS_S


def too_long(max_bytes: int) -> BodyTooLarge:
    """Say of an upload what is the most, and who may change it."""
    most = f"the {max_bytes} bytes that this service takes (SIGHTLINE_MAX_UPLOAD_BYTES)"
    return BodyTooLarge(f"the file is longer than {most}; a smaller copy, or a part of a film, will do")


async def limited(chunks: AsyncIterator[bytes], *, max_bytes: int) -> AsyncIterator[bytes]:
    """Pass chunks on until they are too many.

    Raises:
        BodyTooLarge: more than ``max_bytes``.
    """
    n_bytes = 0
    async for chunk in chunks:
        n_bytes += len(chunk)
        if n_bytes > max_bytes:
            raise too_long(max_bytes)
        yield chunk
