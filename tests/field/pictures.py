"""Pictures of every kind that phones, scanners, desktops and programs write, in every way that they lie."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

from PIL import Image, ImageCms
from PIL.Image import Transpose
from PIL.PngImagePlugin import PngInfo

from demo.scenes import clip, scene
from tests.field.table import Door, Row, says, send
from tests.media import encode, heic, patched

FAMILY = "pictures"
#: Scenes that the demo model describes rightly as they are drawn, so that only the file is tried.
SCENES = (0, 1, 2, 5, 6, 7, 8, 9, 10, 12, 15, 16, 19, 20, 21, 22, 23)
DOORS: tuple[Door, ...] = ("chat", "job", "upload", "responses")
#: What a stored picture of that orientation was turned by, away from upright.
TURNED = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_90,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_270,
}
Write = Callable[[Image.Image], bytes]


def rows() -> Iterator[Row]:
    """Give the rows, each about another scene and by another door than the one before."""
    seeds, doors = cycle(SCENES), cycle(DOORS)
    for name, write in ways().items():
        drawn = scene(next(seeds))
        yield Row(FAMILY, name, send(write(drawn.picture), "image", next(doors)), says(drawn.truth))


def ways() -> dict[str, Write]:
    """Name each way to write a picture."""
    return {**_kinds(), **_turned(), **_modes(), **_large(), **_odd()}


def _as(image_format: str, **options: Any) -> Write:
    return lambda image: encode(image, image_format, **options)


def _kinds() -> dict[str, Write]:
    found: dict[str, Write] = {f"JPEG, quality {quality}": _as("JPEG", quality=quality) for quality in (30, 75, 95, 100)}
    found |= {f"JPEG, {name}": _as("JPEG", **{name: True}) for name in ("progressive", "optimize", "keep_rgb")}
    found |= {f"JPEG, colours sampled {n}": _as("JPEG", subsampling=n) for n in (0, 1, 2)}
    found |= {"JPEG, restart marks": _as("JPEG", restart_marker_rows=1), "JPEG of a 3D camera": _as("MPO")}
    found |= {f"PNG, level {level}": _as("PNG", compress_level=level) for level in (0, 9)}
    found |= {f"WEBP, quality {quality}": _as("WEBP", quality=quality) for quality in (50, 90)}
    found |= {
        "WEBP, lossless": _as("WEBP", lossless=True),
        "AVIF": _as("AVIF", quality=80),
        "AVIF, fast": _as("AVIF", speed=10),
    }
    found |= {f"HEIC, quality {quality}": lambda image, quality=quality: heic(image, quality=quality) for quality in (50, 90)}  # type: ignore[misc]
    found |= {"HEIC, all colours": lambda image: heic(image, chroma=444, quality=80)}
    packed = ("raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "jpeg")
    found |= {f"TIFF, {name}": _as("TIFF", compression=None if name == "raw" else name) for name in packed}
    found |= {"TIFF, big": _as("TIFF", big_tiff=True), "TIFF, pages": lambda image: _paged(image, "TIFF")}
    found |= {"BMP": _as("BMP"), "GIF": _as("GIF"), "GIF, straight": _as("GIF", interlace=0)}
    found |= {"JPEG 2000": _as("JPEG2000"), "JPEG 2000, codes alone": _as("JPEG2000", no_jp2=True)}
    found |= {"JPEG 2000, lossy": _as("JPEG2000", irreversible=True, quality_layers=[20])}
    return found | {"ICO": lambda image: encode(image.resize((256, 256)), "ICO", sizes=[(256, 256)])}


def _turned() -> dict[str, Write]:
    def write(image_format: str, orientation: int) -> Write:
        def turned(image: Image.Image) -> bytes:
            stored, exif = image.transpose(TURNED[orientation]), Image.Exif()
            exif[0x0112] = orientation
            if image_format == "HEIC":
                return heic(stored, exif=exif.tobytes())
            if image_format == "TIFF":
                return encode(stored, "TIFF", tiffinfo={0x0112: orientation})
            return encode(stored, image_format, exif=exif)

        return turned

    formats = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "HEIC")
    return {f"{name}, orientation {n}": write(name, n) for name in formats for n in TURNED}


def _modes() -> dict[str, Write]:
    def clear(image: Image.Image) -> Image.Image:
        image = image.convert("RGBA")
        image.putalpha(255)
        return image

    found: dict[str, Write] = {
        f"{name}, alpha": lambda image, name=name: encode(clear(image), name)  # type: ignore[misc]
        for name in ("PNG", "WEBP", "TIFF", "AVIF", "JPEG2000")
    }
    found |= {f"{name}, palette": lambda image, name=name: encode(image.quantize(256), name) for name in ("PNG", "BMP", "TIFF")}  # type: ignore[misc]
    found |= {f"{name}, CMYK": lambda image, name=name: encode(image.convert("CMYK"), name) for name in ("JPEG", "TIFF")}  # type: ignore[misc]
    found |= {"PNG, 16 colours": lambda image: encode(image.quantize(16), "PNG", bits=4)}
    found |= {"TIFF, LAB": lambda image: encode(_lab(image), "TIFF")}
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return found | {f"{name}, a profile": _as(name, icc_profile=srgb) for name in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")}


def _lab(image: Image.Image) -> Image.Image:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB") or image


def _large() -> dict[str, Write]:
    def scaled(megapixels: float, write: Write) -> Write:
        def large(image: Image.Image) -> bytes:
            by = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
            return write(image.resize((round(image.width * by), round(image.height * by)), Image.Resampling.BICUBIC))

        return large

    found = {f"JPEG of {n} megapixels": scaled(n, _as("JPEG", quality=70)) for n in (12, 50.3, 64, 108, 199)}
    found |= {f"PNG of {n} megapixels": scaled(n, _as("PNG", compress_level=1)) for n in (8, 33)}
    found |= {f"WEBP of {n} megapixels": scaled(n, _as("WEBP", method=0, quality=70)) for n in (12, 24)}
    fast = {"quality": 50, "enc_params": {"preset": "ultrafast"}}
    found |= {f"HEIC of {n} megapixels": scaled(n, lambda image: heic(image, **fast)) for n in (12, 24)}
    found |= {"TIFF of 24 megapixels": scaled(24, _as("TIFF", compression="tiff_lzw"))}
    found |= {"JPEG 2000 of 12 megapixels": scaled(12, _as("JPEG2000", irreversible=True, quality_layers=[40]))}
    return found | {"AVIF of 8 megapixels": scaled(8, _as("AVIF", speed=10)), "GIF of 4 megapixels": scaled(4, _as("GIF"))}


def _odd() -> dict[str, Write]:
    text, packed = PngInfo(), PngInfo()
    text.add_text("workflow", "x" * 3_000_000)
    packed.add_text("prompt", "x" * 3_000_000, zip=True)
    return {
        "JPEG without its end mark": lambda image: encode(image, "JPEG")[:-2],
        "JPEG cut in its last rows": lambda image: (data := encode(image, "JPEG"))[: len(data) * 995 // 1000],
        "JPEG, progressive, cut": lambda image: (data := encode(image, "JPEG", progressive=True))[: len(data) * 8 // 10],
        "JPEG, zeros behind it": lambda image: encode(image, "JPEG") + bytes(300_000),
        "JPEG, 20 MB": lambda image: encode(image, "JPEG") + bytes(20_000_000),
        "JPEG, a comment of 60 kB": _as("JPEG", comment=b"x" * 60_000),
        "PNG, a text of 3 MB": _as("PNG", pnginfo=text),
        "PNG, a packed text of 3 MB": _as("PNG", pnginfo=packed),
        "PNG, a profile of 3 MB": _as("PNG", icc_profile=bytes(3_000_000)),
        "PNG without its end mark": lambda image: encode(image)[:-12],
        "PNG, animated": lambda image: _paged(image, "PNG"),
        "GIF, animated": lambda image: _paged(image, "GIF"),
        "WEBP, animated": lambda image: _paged(image, "WEBP"),
        "AVIF, brand mif1": lambda image: patched(encode(image, "AVIF", quality=80), b"ftyp", 0, b"mif1"),
        "HEIC, brand mif1": lambda image: patched(heic(image), b"ftyp", 0, b"mif1"),
        "BMP from the top": _downwards_bmp,
        "BMP of 32 bits": lambda image: encode(image.convert("RGBA"), "BMP"),
        "JPEG cut in its last blocks": lambda image: encode(image, "JPEG")[:-20],
        **_of_programs(),
    }


def _of_programs() -> dict[str, Write]:
    """More of what single phones and programs write."""
    srgb, exif = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0131] = "某厂", "X" * 200, "x y"
    return {
        "JPEG of a phone, its film behind it": lambda image: encode(image, "JPEG") + clip(0).mp4(),
        "JPEG, a page behind it": lambda image: encode(image, "JPEG") + b"<html>end</html>",
        "JPEG, notes in Chinese": _as("JPEG", exif=exif),
        "JPEG, a thumbnail in it": lambda image: encode(image, "JPEG", exif=_thumbnail(image)),
        "JPEG, colours sampled 4:1:1": _as("JPEG", subsampling="4:1:1"),
        "JPEG, progressive, a profile": _as("JPEG", progressive=True, icc_profile=srgb),
        "JPEG of 300 dots": _as("JPEG", quality=90, dpi=(300, 300)),
        "PNG of 16 bits": lambda image: _written_png(image, [0] * image.height, depth=16),
        "PNG, each row of another filter": lambda image: _written_png(image, [n % 3 for n in range(image.height)]),
        "PNG, its pixels in pieces of 100 bytes": lambda image: _written_png(image, [0] * image.height, piece=100),
        "PNG, palette with a clear colour": lambda image: encode(image.quantize(255), "PNG", transparency=254),
        "GIF with a clear colour": lambda image: encode(image.quantize(255), "GIF", transparency=254),
        "PNG, dots to a metre": _as("PNG", dpi=(72, 72)),
        "TIFF, differences": _as("TIFF", compression="tiff_lzw", tiffinfo={317: 2}),
        "TIFF, dots and notes": _as("TIFF", dpi=(600, 600), description="扫描"),
        "TIFF, YCbCr in JPEG": lambda image: encode(image.convert("YCbCr"), "TIFF", compression="jpeg"),
        "ICO of three sizes": lambda image: encode(image.resize((256, 256)), "ICO", sizes=[(16, 16), (48, 48), (256, 256)]),
        "WEBP, exact": _as("WEBP", lossless=True, exact=True),
        "WEBP, notes and a profile": _as("WEBP", exif=exif, icc_profile=srgb),
        "AVIF, all colours": _as("AVIF", subsampling="4:4:4", quality=80, speed=9),
        "AVIF, a narrow range": _as("AVIF", range="limited", quality=85, speed=9),
        "HEIC, notes": lambda image: heic(image, exif=exif.tobytes()),
        "JPEG 2000 in tiles": _as("JPEG2000", tile_size=(128, 128)),
    }


def _thumbnail(image: Image.Image) -> bytes:
    """Give EXIF whose second directory holds a small picture of something else."""
    small = encode(Image.new("RGB", image.size, "white").resize((160, 120)), "JPEG")
    entries = struct.pack(">HHHII", 2, 0x0201, 4, 1, 44) + struct.pack(">HHII", 0x0202, 4, 1, len(small))
    return b"Exif\0\0MM\0*" + struct.pack(">IHI", 8, 0, 14) + entries + bytes(4) + small


def _written_png(image: Image.Image, filters: list[int], *, depth: int = 8, piece: int = 1 << 16) -> bytes:
    """Write a PNG by hand: Pillow writes neither 16 bits a colour, nor chosen filters, nor pieces of another size."""
    pixels, step, rows = image.tobytes(), 3 * image.width, bytearray()
    above = bytes(step)
    for n, kind in enumerate(filters):
        row = pixels[n * step : (n + 1) * step]
        before = (bytes(step), bytes(3) + row[:-3], above)[kind]
        rows += bytes([kind]) + bytes((a - b) & 255 for a, b in zip(row, before, strict=True) for _ in range(depth // 8))
        above = row

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packed = zlib.compress(bytes(rows))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *image.size, depth, 2, 0, 0, 0))
    body = b"".join(chunk(b"IDAT", packed[at : at + piece]) for at in range(0, len(packed), piece))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


def _paged(image: Image.Image, image_format: str) -> bytes:
    more = Image.new("RGB", image.size, "white")
    return encode(image, image_format, save_all=True, append_images=[more, more.rotate(90)], duration=500)


def _downwards_bmp(image: Image.Image) -> bytes:
    raw = image.tobytes("raw", "BGR", -(-3 * image.width // 4) * 4)
    head = struct.pack("<IiiHHIIiiII", 40, image.width, -image.height, 1, 24, 0, len(raw), 0, 0, 0, 0)
    return struct.pack("<2sIHHI", b"BM", 54 + len(raw), 0, 0, 54) + head + raw
