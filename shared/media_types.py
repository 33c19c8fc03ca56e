"""What a file is, by its first bytes; names and declared types are never believed. Pure."""

from __future__ import annotations

from typing import Literal

HEAD_BYTES = 64  #: how many bytes from the start `sniff` wants to see

Kind = Literal["image", "video"]

_STARTS = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"\x1aE\xdf\xa3": "video/x-matroska",
}
#: Major brands of ISO base media files that are pictures, and not AVIF; they are not taken.
_OTHER_STILLS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"jxl ", b"crx "}


def sniff(head: bytes) -> str | None:
    """Name the media type of a file.

    Args:
        head: its first :data:`HEAD_BYTES` bytes, or the whole of a shorter one.

    Returns:
        ``image/...`` or ``video/...``, or None for everything that is not taken.
    """
    for start, media_type in _STARTS.items():
        if head.startswith(start):
            return media_type
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[4:8] == b"ftyp" and head[8:12] in {b"avif", b"avis"}:
        return "image/avif"
    if head[4:8] == b"ftyp" and head[8:12] not in _OTHER_STILLS:
        return "video/quicktime" if head[8:12] == b"qt  " else "video/mp4"
    return None


def kind_of(media_type: str) -> Kind:
    """Say whether a sniffed type is a picture or a video."""
    return "image" if media_type.startswith("image/") else "video"
