"""Pictures and clips with random damage, each made from its seed alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache

from PIL import Image

from tests.media import clip, encode, heic


@lru_cache(maxsize=1)
def specimens() -> dict[str, bytes]:
    """Make whole files of every kind that is taken, small ones, so that damage hits something."""
    noise, exif = Image.frombytes("RGB", (80, 60), random.Random(0).randbytes(80 * 60 * 3)), Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    more = {"save_all": True, "append_images": [noise.rotate(90)] * 2}
    greys = [12 * n for n in range(20)]
    return {
        "jpeg": encode(noise, "JPEG", exif=exif),
        "progressive": encode(noise, "JPEG", progressive=True),
        "cmyk": encode(noise.convert("CMYK"), "JPEG"),
        "mpo": encode(noise, "MPO", **more),
        "png": encode(noise, "PNG", exif=exif),
        "palette": encode(noise.quantize(16), "PNG", transparency=3),
        "apng": encode(noise, "PNG", **more),
        "webp": encode(noise, "WEBP", exif=exif),
        "lossless": encode(noise, "WEBP", lossless=True),
        "animation": encode(noise, "WEBP", **more),
        "gif": encode(noise, "GIF", **more),
        "avif": encode(noise, "AVIF", exif=exif),
        "heic": heic(noise),
        "tiff": encode(noise, "TIFF", compression="tiff_lzw"),
        "bmp": encode(noise, "BMP"),
        "jp2": encode(noise, "JPEG2000"),
        "ico": encode(noise, "ICO"),
        "mp4": clip(greys),
        "mov": clip(greys, container="mov"),
        "mkv": clip(greys, container="matroska"),
        "hevc": clip(greys, codec="libx265", container="mp4", options={"x265-params": "log-level=none"}),
        "webm": clip(greys, container="webm", codec="libvpx-vp9"),
        "vp8": clip(greys, container="webm", codec="libvpx"),
        "mpeg4": clip(greys, codec="mpeg4"),
        "avi": clip(greys, container="avi", codec="mpeg4"),
        "flv": clip(greys, container="flv"),
        "ts": clip(greys, container="mpegts"),
        "mpeg": clip(greys, rate=25, container="mpeg", codec="mpeg2video"),
        "asf": clip(greys, container="asf", codec="msmpeg4"),
    }


VIDEOS = {"mp4", "mov", "mkv", "hevc", "webm", "vp8", "mpeg4", "avi", "flv", "ts", "mpeg", "asf"}


def mutant(seed: int) -> tuple[str, bytes]:
    """Damage one of the specimens.

    Returns:
        Which, and what became of it.
    """
    chance = random.Random(seed)
    kind = chance.choice(sorted(specimens()))
    data = bytearray(specimens()[kind])
    for _ in range(chance.choice([1, 1, 2, 4, 16])):
        chance.choice(_DAMAGES)(data, chance)
    return kind, bytes(data)


def _somewhere(data: bytearray, chance: random.Random) -> int:
    """Prefer the beginning and the end, where headers and indexes stand."""
    near = chance.choice([64, 512, len(data)])
    at = chance.randrange(min(near, len(data) or 1)) if data else 0
    return max(0, len(data) - 1 - at) if chance.random() < 0.25 else at


def _flip(data: bytearray, chance: random.Random) -> None:
    if data:
        data[_somewhere(data, chance)] ^= 1 << chance.randrange(8)


def _overwrite(data: bytearray, chance: random.Random) -> None:
    at = _somewhere(data, chance)
    value = chance.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", chance.randbytes(4), b"\0\1", b"\x80"])
    data[at : at + len(value)] = value


def _cut(data: bytearray, chance: random.Random) -> None:
    del data[_somewhere(data, chance) + 1 :]


def _remove(data: bytearray, chance: random.Random) -> None:
    at = _somewhere(data, chance)
    del data[at : at + chance.choice([1, 4, 100])]


def _repeat(data: bytearray, chance: random.Random) -> None:
    at = _somewhere(data, chance)
    data[at:at] = data[at : at + chance.choice([1, 8, 200])] * chance.choice([1, 3])


def _splice(data: bytearray, chance: random.Random) -> None:
    other = specimens()[chance.choice(sorted(specimens()))]
    at, start = _somewhere(data, chance), chance.randrange(len(other))
    data[at:at] = other[start : start + chance.choice([16, 300])]


_DAMAGES: list[Callable[[bytearray, random.Random], None]] = [
    _flip,
    _flip,
    _overwrite,
    _overwrite,
    _cut,
    _remove,
    _repeat,
    _splice,
]
