"""What a file is, by its first bytes; names and declared types are never believed. Pure."""

from __future__ import annotations

from typing import Literal

from shared.errors import UnsupportedMedia
from shared.unsupported_files import describe

#: How many bytes from the start :func:`sniff` wants to see: five packets of a transport stream tell it from chance.
HEAD_BYTES = 1024

Kind = Literal["image", "video"]

_STARTS = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"\x00\x00\x00\x0cjP  \r\n\x87\n": "image/jp2",
    b"\xff\x4f\xff\x51": "image/jp2",
    b"\x1aE\xdf\xa3": "video/x-matroska",
    b"FLV\x01": "video/x-flv",
    b"\x00\x00\x01\xba": "video/mpeg",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "video/x-ms-asf",
    b"OggS": "video/ogg",
}
_RIFF = {b"WEBP": "image/webp", b"AVI ": "video/x-msvideo", b"AVIX": "video/x-msvideo"}
#: What names of such files end in, by their type: these are taken from a folder. What a file is, its first bytes say.
SUFFIXES = {
    "image/jpeg": ("jpg", "jpeg", "jpe", "jfif", "mpo"),
    "image/png": ("png", "apng"),
    "image/gif": ("gif",),
    "image/webp": ("webp",),
    "image/avif": ("avif",),
    "image/heic": ("heic", "heif", "hif"),
    "image/bmp": ("bmp", "dib"),
    "image/tiff": ("tif", "tiff"),
    "image/jp2": ("jp2", "j2k"),
    "image/x-icon": ("ico",),
    "video/mp4": ("mp4", "m4v", "3gp"),
    "video/quicktime": ("mov", "qt"),
    "video/x-matroska": ("mkv", "webm"),
    "video/x-msvideo": ("avi",),
    "video/x-flv": ("flv",),
    "video/mp2t": ("ts", "mts", "m2ts"),
    "video/mpeg": ("mpg", "mpeg", "vob"),
    "video/x-ms-asf": ("wmv", "asf"),
    "video/ogg": ("ogv",),
}
#: Pictures that a video player could be made to play, too: each has frames and times.
MOVING = frozenset({"image/gif", "image/webp", "image/avif"})
_AVIF = {b"avif", b"avis", b"MA1A", b"MA1B"}
_HEIF = {*(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), b"mif1", b"mif2", b"msf1", b"miaf", b"heif"}
#: Brands of films, and of pictures that are not taken.
_FILM = {b"isom", b"iso2", b"mp41", b"mp42", b"qt  ", b"M4V "}
_OTHER_STILLS = {b"jxl ", b"crx "}
#: The first atom of MOVs from before there was an ftyp, and of those that a recorder began with room for more.
_ATOMS = {b"wide", b"free", b"skip", b"mdat", b"moov", b"pnot"}
#: Of BMPs: the lengths that the second header may have.
_BMP_HEADERS = {12, 16, 40, 52, 56, 64, 108, 124}
#: Byte order, and length of the number that says where the first directory is.
_TIFF: dict[bytes, tuple[Literal["little", "big"], int]] = {
    b"II*\x00": ("little", 4),
    b"MM\x00*": ("big", 4),
    b"II+\x00": ("little", 8),
    b"MM\x00+": ("big", 8),
}
#: Where packets of transport streams begin, by their length: those of cameras have a time before each.
_PACKETS = {188: 0, 192: 4}


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
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12])
    if head[4:8] == b"ftyp":
        return _of_brands(head)
    if head[4:8] in _ATOMS:
        return "video/quicktime"
    return _of_numbers(head)


def _of_brands(head: bytes) -> str | None:
    """Tell files of the ISO base media format by their brands: the first says what it is, the rest what else can read it."""
    end = min(int.from_bytes(head[:4], "big") or len(head), len(head))
    major, others = head[8:12], {head[n : n + 4] for n in range(16, end - 3, 4)}
    if major in _OTHER_STILLS:
        return None
    if major not in _AVIF | _HEIF and (not others & (_AVIF | _HEIF) or ({major} | others) & _FILM):
        return "video/quicktime" if major == b"qt  " else "video/mp4"
    if major.startswith(b"he"):
        return "image/heic"
    return "image/avif" if ({major} | others) & _AVIF or b"av01" in head else "image/heic"


def _of_numbers(head: bytes) -> str | None:
    """Tell those kinds whose first bytes are short, so that a number behind them has to fit as well."""
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "image/bmp"
    if head[:4] in _TIFF:
        order, width = _TIFF[head[:4]]
        return "image/tiff" if int.from_bytes(head[width : 2 * width], order) >= width else None
    if head[:4] == b"\x00\x00\x01\x00" and 0 < int.from_bytes(head[4:6], "little") < 256 and head[9:10] == b"\x00":  # noqa: PLR2004
        return "image/x-icon"
    for length, start in _PACKETS.items():
        marks = head[start::length]
        if len(marks) > 1 and set(marks) == {0x47}:
            return "video/mp2t"
    return None


def kind_of(media_type: str) -> Kind:
    """Say whether a sniffed type is a picture or a video."""
    return "image" if media_type.startswith("image/") else "video"


def serves_as(media_type: str, kind: Kind) -> bool:
    """Say whether a file can be used as a picture or as a video; pictures that move can be used as both."""
    return kind_of(media_type) == kind or (kind == "video" and media_type in MOVING)


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
        raise UnsupportedMedia(describe(head), param=param)
    if wanted and not serves_as(media_type, wanted):
        msg = f"this is a file of type {media_type}, used as {'a picture' if wanted == 'image' else 'a video'}"
        raise UnsupportedMedia(msg, param=param)
    return media_type
