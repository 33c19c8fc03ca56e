"""Files of pictures, looked at byte by byte before anything decodes them. Pure."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

#: A printer's colour profile takes 3 MB.
MAX_PROFILE_BYTES = 8 * 2**20


def webp_chunks(data: bytes | memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Walk over the chunks of a RIFF file."""
    view, at = memoryview(data), 12
    while at + 8 <= len(view):
        name, size = bytes(view[at : at + 4]), int.from_bytes(view[at + 4 : at + 8], "little")
        yield name, view[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def webp_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """Read a WEBP's width and height; None where they are not where they should be."""
    for name, body in webp_chunks(data):
        head = bytes(body[:10])
        if name == b"VP8X" and len(head) == 10:  # noqa: PLR2004
            return int.from_bytes(head[4:7], "little") + 1, int.from_bytes(head[7:10], "little") + 1
        if name == b"VP8L" and len(head) >= 5:  # noqa: PLR2004
            bits = int.from_bytes(head[1:5], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        if name == b"VP8 " and len(head) == 10:  # noqa: PLR2004
            width, height = struct.unpack("<HH", head[6:10])
            return width & 0x3FFF, height & 0x3FFF
    return None


def png_in_icon(data: bytes | memoryview) -> memoryview | None:
    """Give the largest picture of an ICO where it is a PNG: its size may differ from what the icon says."""
    view, (count,) = memoryview(data), struct.unpack_from("<H", data, 4)
    entries = [struct.unpack_from("<BBBBHHII", view, at) for at in range(6, min(6 + 16 * count, len(view) - 15), 16)]
    *_, size, start = max(entries, key=lambda entry: (entry[0] or 256, entry[5], entry[6]), default=(0, 0))
    return view[start : start + size] if bytes(view[start : start + 4]) == b"\x89PNG" else None


def without_ballast(data: bytes | memoryview) -> bytes | memoryview:
    """Leave out of a PNG what makes Pillow refuse it: texts, in which generators keep whole workflows, and endless profiles."""
    view, at, kept, start = memoryview(data), 8, list[memoryview](), 0
    while at + 8 <= len(view):
        size, name = int.from_bytes(view[at : at + 4], "big"), bytes(view[at + 4 : at + 8])
        end = at + 12 + size
        if name == b"IEND":
            break
        if name in {b"tEXt", b"zTXt", b"iTXt"} or (name == b"iCCP" and not _is_short(view[at + 8 : end - 4])):
            kept.append(view[start:at])
            start = end
        at = end
    return b"".join([*kept, view[start:]]) if kept else data


def _is_short(profile: memoryview) -> bool:
    _, _, packed = bytes(profile).partition(b"\0")
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(packed[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return False
    return not unpacker.unconsumed_tail
