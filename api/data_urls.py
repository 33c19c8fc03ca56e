"""data-URLs, read as browsers read them: by the Fetch standard's rules, and base64 of the URL-safe alphabet besides. Pure."""

from __future__ import annotations

import binascii
import re

import pybase64

from shared.errors import BadMediaReference, BodyTooLarge
from shared.media_types import HEAD_BYTES

_START = re.compile(r"[\x00-\x20]*data:", re.IGNORECASE)
_FRAMES = re.compile(r"[\x00-\x20]*data:\s*video/jpeg\s*;", re.IGNORECASE)
_BASE64 = re.compile(r"; *base64$", re.IGNORECASE)
_BLANKS = b" \t\n\r\f\v"  #: encoders wrap lines at 64 or 76 characters
#: What encodeURIComponent makes of base64, replaced first: a piece at a time takes seconds for megabytes of them.
_USUAL = {b"%2b": b"+", b"%2B": b"+", b"%2f": b"/", b"%2F": b"/", b"%3d": b"=", b"%3D": b"="}
_ESCAPED = re.compile(rb"(?:%[0-9A-Fa-f]{2})+")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def is_data_url(reference: str) -> bool:
    """Say whether a reference carries its file with it."""
    return bool(_START.match(reference))


def frames_of(video: str | list[str]) -> list[str] | None:
    """Give the frames of a video that comes as pictures: a list, or what vLLM takes, ``data:video/jpeg;base64,one,two``."""
    if isinstance(video, list):
        return video
    head, _, body = video.partition(",")
    if not _FRAMES.match(head):
        return None
    return [f"data:image/jpeg;base64,{frame}" for frame in body.split(",")]


def decode_data_url(url: str, *, param: str, max_bytes: int) -> bytes:
    """Decode ``data:<type>;base64,<data>``; the type is not believed.

    Args:
        url: begins with ``data:`` in either case.
        param: what to call it in an error.
        max_bytes: the most that may be in it.

    Raises:
        BodyTooLarge: it would be longer than ``max_bytes``; that is seen before it is decoded.
        BadMediaReference: not base64, or nothing in it.
    """
    body = _body(url, param)
    data = _decode(body) if len(body) * 3 // 4 <= max_bytes else None
    if data is None:
        packed = _packed(body)
        if len(packed) * 3 // 4 > max_bytes:
            msg = f"the data-URL is longer than {max_bytes} bytes; upload the file with POST /v1/files"
            raise BodyTooLarge(msg, param=param)
        data = _decode(packed)
    if data is None:
        msg = "the data-URL holds something that is not base64"
        raise BadMediaReference(msg, param=param)
    if not data:
        msg = "the data-URL is empty"
        raise BadMediaReference(msg, param=param)
    return data


def first_bytes(url: str, *, param: str) -> bytes:
    """Decode only so much of a data-URL as tells what kind of file it is.

    Raises:
        BadMediaReference: not base64, or nothing in it.
    """
    head, comma, body = url.partition(",")
    packed = _packed(_body(head + comma + body[: 4 * HEAD_BYTES], param))  # room for escapes and line breaks
    start = packed[: min(len(packed), HEAD_BYTES * 4 // 3) // 4 * 4] or packed
    return decode_data_url("data:;base64," + start.decode("latin-1"), param=param, max_bytes=2 * HEAD_BYTES)


def _body(url: str, param: str) -> bytes:
    """Give what stands behind the comma, as it stands there."""
    head, comma, body = url.partition(",")
    if not comma or not is_data_url(head) or not _BASE64.search(head.translate(_NO_BREAKS).rstrip(" ")):
        msg = "a data-URL has the form data:image/png;base64,<data>"
        raise BadMediaReference(msg, param=param)
    return body.encode("utf-8", "replace")


def _decode(packed: bytes) -> bytes | None:
    """Decode base64 of the usual alphabet; None where something else is in it."""
    try:
        return pybase64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)  # Python's own takes 40 times as long
    except (binascii.Error, ValueError):
        return None


def _packed(body: bytes) -> bytes:
    """Give the base64 in the usual alphabet, without blanks, escapes and padding.

    Most comes so, and decodes as it is: this takes four times as long as decoding.
    """
    packed = body.translate(_URL_SAFE, _BLANKS)
    if b"%" in packed:
        for escape, character in _USUAL.items():
            packed = packed.replace(escape, character)
        packed = _ESCAPED.sub(_unescape, packed).translate(_URL_SAFE, _BLANKS)
    return packed.rstrip(b"=")


_NO_BREAKS = dict.fromkeys(map(ord, "\t\n\r"))


def _unescape(escapes: re.Match[bytes]) -> bytes:
    return bytes.fromhex(escapes[0].replace(b"%", b"").decode())
