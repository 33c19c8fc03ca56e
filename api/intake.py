"""What comes in with a request: media references are checked, and inline media stored before the job is."""

from __future__ import annotations

import binascii
from collections.abc import AsyncIterator

import pybase64

from api.deps import Parts
from shared.blobs import inline_name
from shared.errors import BadMediaReference, BodyTooLarge, InvalidRequest, ReservedToken, UnsupportedMedia
from shared.jobs import ImagePart, JobRequest, MediaPart, Message, TextPart, VideoPart, media_parts
from shared.media_types import HEAD_BYTES, Kind, kind_of, sniff
from shared.reserved import find_reserved
from shared.settings import Settings
from shared.urls import check_url

CHUNK_BYTES = 2**20
#: What a job's attempts may lie apart, in all: pauses before a retry, leases of lost workers.
BETWEEN_RUNS_S = 3600.0


def check_kind(head: bytes, wanted: Kind | None, *, param: str | None) -> str:
    """Sniff a file that has arrived and compare it with what it is used as.

    Returns:
        Its media type.

    Raises:
        UnsupportedMedia: not taken, or a picture where a video should be.
    """
    media_type = sniff(head)
    if media_type is None:
        raise UnsupportedMedia(None if head else "the file is empty", param=param)
    if wanted and kind_of(media_type) != wanted:
        msg = f"this is a file of type {media_type}, used as {'a picture' if wanted == 'image' else 'a video'}"
        raise UnsupportedMedia(msg, param=param)
    return media_type


async def take_in(request: JobRequest, job_id: str, parts: Parts, *, owner: str, chat: bool = False) -> JobRequest:
    """Check a request as far as it can be known now, and store what it carries; a chat needs no media.

    Returns:
        The request in its messages form, small: every data-URL is replaced by the name of a stored file.

    Raises:
        InvalidRequest: one of its kinds; nothing was stored then.
        ModelNotReady: the model that it names has workers, and none is ready.
        UnsupportedMedia: a file that is no picture or video.
    """
    settings = parts.settings
    messages = request.conversation()
    request.check(messages, max_images=settings.limit_images, max_videos=settings.limit_videos, chat=chat)
    await parts.models.check(request.model)
    if request.webhook:
        if settings.webhook_secret is None:
            msg = "webhooks are off: the service has no SIGHTLINE_WEBHOOK_SECRET; `sightline secret` makes one"
            raise InvalidRequest(msg, param="webhook")
        check_url(request.webhook.url, settings, param="webhook.url")
    _refuse_reserved(messages, short=not request.messages)
    keep_s = needed_s(request, settings)
    inline: dict[str, bytes] = {}
    references: dict[str, str] = {}
    for n, (path, part) in enumerate(media_parts(messages)):
        param = path if request.messages else _short_path(n, request)
        data = await _check(part, param, parts, owner, keep_s)
        if data is not None:
            name = inline_name(job_id, n)
            inline[name], references[path] = data, f"blob:{name}"
    for name, data in inline.items():
        await parts.blobs.put_bytes(name, data)
    stored = [_renamed(message, f"messages.{m}.content", references) for m, message in enumerate(messages)]
    return request.model_copy(update={"messages": stored, "prompt": None, "images": [], "video": None})


def _refuse_reserved(messages: list[Message], *, short: bool) -> None:
    for m, message in enumerate(messages):
        found = find_reserved([part.text if isinstance(part, TextPart) else None for part in message.parts])
        if found:
            part, word = found
            path = f"messages.{m}.content" if isinstance(message.content, str) else f"messages.{m}.content.{part}"
            msg = f"the text holds {word}, which steers the model; write it another way, for example with a space in it"
            raise ReservedToken(msg, param="prompt" if short else path)


def _short_path(n: int, request: JobRequest) -> str:
    return f"images.{n}" if n < len(request.images) else "video"


def _renamed(message: Message, path: str, references: dict[str, str]) -> Message:
    found = {p: references[f"{path}.{p}"] for p in range(len(message.parts)) if f"{path}.{p}" in references}
    if not found:
        return message
    parts = list(message.parts)
    for p, reference in found.items():
        part = parts[p]
        parts[p] = part.model_copy(update={"video" if isinstance(part, VideoPart) else "image": reference})
    return message.model_copy(update={"content": parts})


def needed_s(request: JobRequest, settings: Settings) -> float:
    """Say how long a job's files may be needed: while it waits for its start, and for all its attempts."""
    runs_s = settings.max_attempts * (request.run_timeout_s or settings.run_timeout_s)
    return (request.start_deadline_s or settings.start_deadline_s) + runs_s + BETWEEN_RUNS_S


async def _check(part: MediaPart, param: str, parts: Parts, owner: str, keep_s: float) -> bytes | None:
    """Check one reference; gives the bytes of a data-URL, None for what is stored elsewhere, and will be for ``keep_s``."""
    kind: Kind = "image" if isinstance(part, ImagePart) else "video"
    reference = part.image if isinstance(part, ImagePart) else part.video
    if reference.startswith("data:"):
        data = decode_data_url(reference, param=param, max_bytes=parts.settings.max_body_bytes)
        check_kind(data[:HEAD_BYTES], kind, param=param)
        return data
    if reference.startswith(("http://", "https://")):
        check_url(reference, parts.settings, param=param)
    elif reference.startswith("file-"):
        upload = await parts.uploads.get(reference, owner=owner, param=param, keep_s=keep_s)
        if kind_of(upload.media_type) != kind:
            msg = f"the upload {upload.id} is of type {upload.media_type}"
            raise UnsupportedMedia(msg, param=param)
    else:
        raise BadMediaReference(param=param)
    return None


def decode_data_url(url: str, *, param: str, max_bytes: int) -> bytes:
    """Decode ``data:<type>;base64,<data>``; the type is not believed.

    Raises:
        BodyTooLarge: it would be longer than ``max_bytes``, told before it is decoded.
        BadMediaReference: not base64, or nothing in it.
    """
    head, comma, body = url.partition(",")
    if not comma or not head.endswith(";base64"):
        msg = "a data-URL has the form data:image/png;base64,<data>"
        raise BadMediaReference(msg, param=param)
    if len(body) * 3 // 4 > max_bytes:
        msg = f"the data-URL is longer than {max_bytes} bytes; upload the file with POST /v1/files"
        raise BodyTooLarge(msg, param=param)
    try:
        data = pybase64.b64decode(body, validate=True)  # 7 us for a photograph, where Python's own takes 300
    except (binascii.Error, ValueError) as error:
        msg = "the data-URL holds something that is not base64"
        raise BadMediaReference(msg, param=param) from error
    if not data:
        msg = "the data-URL is empty"
        raise BadMediaReference(msg, param=param)
    return data


async def limited(chunks: AsyncIterator[bytes], *, max_bytes: int) -> AsyncIterator[bytes]:
    """Pass chunks on until they are too many.

    Raises:
        BodyTooLarge: more than ``max_bytes``.
    """
    n_bytes = 0
    async for chunk in chunks:
        n_bytes += len(chunk)
        if n_bytes > max_bytes:
            msg = f"the file is longer than the {max_bytes} bytes that this service takes"
            raise BodyTooLarge(msg)
        yield chunk
