"""What a file is, by its first bytes; names and declared types are never believed. Pure."""

from __future__ import annotations

from codecs import BOM_UTF8
from typing import Literal

from shared.errors import UnsupportedMedia

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


#: What people send by mistake, by how it begins once blanks are gone; for messages alone.
_LOOKS: tuple[tuple[tuple[bytes, ...], str], ...] = (
    (
        (b"<!doctype html", b"<html", b"<head", b"<body"),
        "a web page (HTML): it may ask for a login, or be about the file",
    ),
    ((b"<svg", b"<?xml"), "an SVG drawing or another XML file; a PNG of it is taken"),
    ((b"{", b"["), "JSON"),
    ((b"%pdf",), "a PDF; pictures of its pages are taken"),
    ((b"id3", b"oggs", b"flac"), "a sound file"),
    ((b"pk\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf"), "an archive"),
)


def check_kind(head: bytes, wanted: Kind | None, *, param: str | None = None) -> str:
    """Sniff a file that has arrived and compare it with what it is used as.

    Args:
        head: its first :data:`HEAD_BYTES` bytes, or the whole of a shorter one.
        wanted: what it is used as; None where either will do.
        param: path of the field that names it.

    Returns:
        Its media type.

    Raises:
        UnsupportedMedia: not taken, or a picture where a video should be; it says what the file looks like.
    """
    media_type = sniff(head)
    if media_type is None:
        raise UnsupportedMedia(_look(head), param=param)
    if wanted and kind_of(media_type) != wanted:
        msg = f"this is a file of type {media_type}, used as {'a picture' if wanted == 'image' else 'a video'}"
        raise UnsupportedMedia(msg, param=param)
    return media_type


def _look(head: bytes) -> str | None:
    if not head:
        return "the file is empty"
    start = head.removeprefix(BOM_UTF8).lstrip().lower()
    look = next((name for starts, name in _LOOKS if start.startswith(starts)), None)
    return look and f"this is no picture and no video, but {look}"
