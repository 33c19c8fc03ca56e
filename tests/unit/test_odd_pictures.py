"""Odd but good pictures come out as a viewer shows them: equal to a reference that was drawn, not decoded."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from PIL import Image, ImageChops, ImageCms
from PIL.Image import Transpose
from PIL.PngImagePlugin import PngInfo

from tests.media import encode, heic, patched
from worker.media import pictures
from worker.media.pictures import Bounds, decode_image

BOUNDS = Bounds(factor_px=28, min_px=28 * 28, max_px=1280 * 28 * 28, max_source_px=50_000_000)
SIZE = WIDTH, HEIGHT = 84, 56
#: What a stored picture of that orientation was turned by, away from upright.
TURNED = {
    1: None,
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_90,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_270,
}


@dataclass(frozen=True)
class Odd:
    """A file and what it shows, with how far a lossy coder may stray on average."""

    name: str
    data: bytes
    shown: Image.Image
    off: float = 0.0


def scenery() -> Image.Image:
    """Draw smooth colours, different in every corner."""
    image = Image.new("RGB", SIZE)
    image.putdata([(x * 255 // WIDTH, y * 255 // HEIGHT, 255 - (x + y) * 255 // (WIDTH + HEIGHT)) for y, x in grid()])
    return image


def grid() -> list[tuple[int, int]]:
    return [(y, x) for y in range(HEIGHT) for x in range(WIDTH)]


BASE = scenery()
GREY = BASE.convert("L")
ALPHA = Image.new("L", SIZE)
ALPHA.putdata([255 * x // WIDTH for _, x in grid()])


def on_white(image: Image.Image, alpha: Image.Image) -> Image.Image:
    return Image.composite(image.convert("RGB"), Image.new("RGB", SIZE, "white"), alpha)


def png(depth: int, colour: int, rows: list[bytes], *chunks: tuple[bytes, bytes]) -> bytes:
    """Write a PNG by hand, of kinds that Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part) for part in ((b"IHDR", header), *chunks, (b"IDAT", body), (b"IEND", b""))
    )


def rows(image: Image.Image, write: Callable[..., bytes]) -> list[bytes]:
    """Write each pixel; ``write`` gets its bands."""
    pixels = list(image.get_flattened_data())
    bands = [pixel if isinstance(pixel, tuple) else (pixel,) for pixel in pixels]
    return [b"".join(write(*pixel) for pixel in bands[y * WIDTH : (y + 1) * WIDTH]) for y in range(HEIGHT)]


def wide(*bands: int) -> bytes:
    """Write bands of 16 bits whose lower halves say something else."""
    return b"".join(bytes([band, 0x5A]) for band in bands)


def swapped_profile() -> bytes:
    """Take sRGB's profile and let green show as red, blue as green, and red as blue."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (n_tags,) = struct.unpack_from(">I", data, 128)
    new = {b"rXYZ": b"gXYZ", b"gXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}
    for at in range(132, 132 + 12 * n_tags, 12):
        data[at : at + 4] = new.get(bytes(data[at : at + 4]), data[at : at + 4])
    return bytes(data)


SWAPPED = swapped_profile()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RED, GREEN, BLUE = BASE.split()
#: What BASE shows in that profile.
UNSWAPPED = Image.merge("RGB", (GREEN, BLUE, RED))


def oriented() -> list[Odd]:
    found = []
    for name, off, options in (("PNG", 0.0, {}), ("JPEG", 3.0, {"quality": 95}), ("WEBP", 0.0, {"lossless": True})):
        for orientation, turn in TURNED.items():
            exif = Image.Exif()
            exif[0x0112] = orientation
            stored = BASE if turn is None else BASE.transpose(turn)
            found.append(Odd(f"{name}, orientation {orientation}", encode(stored, name, exif=exif, **options), BASE, off))
    return found


def of_png() -> list[Odd]:
    rgba, la = BASE.copy(), Image.merge("LA", (GREY, ALPHA))
    rgba.putalpha(ALPHA)
    palette = BASE.quantize(200)
    few, two = BASE.quantize(16), BASE.convert("1")
    hidden = Image.new("RGB", SIZE, (10, 20, 30))
    hidden.paste((200, 100, 50), (28, 0, 84, 56))
    shown = hidden.copy()
    shown.paste("white", (0, 0, 28, 56))
    entries = bytes(range(55, 255))
    mask = Image.new("L", SIZE)
    mask.putdata([entries[n] for n in palette.get_flattened_data()])
    by_entry = on_white(palette, mask)
    key = struct.pack(">HHH", *(band << 8 | 0x5A for band in (10, 20, 30)))
    frames = {"save_all": True, "append_images": [Image.new("RGB", SIZE, "red")], "duration": 100}
    return [
        Odd("PNG, 1 bit", encode(two), two.convert("RGB")),
        Odd("PNG, 4 bits of palette", encode(few, bits=4), few.convert("RGB")),
        Odd("PNG, 8 bits of palette", encode(palette), palette.convert("RGB")),
        Odd("PNG, palette with alpha for each entry", encode(palette, transparency=entries), by_entry, 1.0),
        Odd("PNG, grey", encode(GREY), GREY.convert("RGB")),
        Odd("PNG, grey and alpha", encode(la), on_white(GREY, ALPHA), 1.0),
        Odd("PNG, alpha", encode(rgba), on_white(BASE, ALPHA), 1.0),
        Odd("PNG, one colour transparent", encode(hidden, transparency=(10, 20, 30)), shown),
        Odd("PNG, 2 bits of grey", png(2, 0, [b"\x1b" * (WIDTH // 4)] * HEIGHT), _stripes()),
        Odd("PNG, 16 bits of grey", png(16, 0, rows(GREY, wide)), GREY.convert("RGB")),
        Odd("PNG, 16 bits", png(16, 2, rows(BASE, wide)), BASE),
        Odd("PNG, 16 bits of grey and alpha", png(16, 4, rows(la, wide)), on_white(GREY, ALPHA), 1.0),
        Odd("PNG, 16 bits and alpha", png(16, 6, rows(rgba, wide)), on_white(BASE, ALPHA), 1.0),
        Odd("PNG, 16 bits, one colour transparent", png(16, 2, rows(hidden, wide), (b"tRNS", key)), shown),
        Odd("PNG, animated", encode(BASE, **frames), BASE),
    ]


def _stripes() -> Image.Image:
    image = Image.new("RGB", SIZE)
    image.putdata([(85 * (x % 4),) * 3 for _, x in grid()])
    return image


def of_others() -> list[Odd]:
    rgba = BASE.copy()
    rgba.putalpha(ALPHA)
    cmyk = Image.merge("CMYK", [*(ImageChops.invert(band) for band in (RED, GREEN, BLUE)), Image.new("L", SIZE, 0)])
    palette = BASE.quantize(64)
    small = Image.new("P", SIZE, 0)
    small.putpalette([*(0, 0, 0), *(30, 200, 60)])
    small.paste(1, (28, 0, 84, 56))
    hole = Image.new("RGB", SIZE, "white")
    hole.paste((30, 200, 60), (28, 0, 84, 56))
    more = {"save_all": True, "append_images": [Image.new("RGB", SIZE, "red")] * 2, "duration": 100}
    clear = Image.new("L", SIZE, 0)
    clear.paste(255, (28, 0, 84, 56))
    holey = BASE.copy()
    holey.putalpha(clear)
    return [
        Odd("JPEG, CMYK", encode(cmyk, "JPEG", quality=95), BASE, 4.0),
        Odd("JPEG, grey", encode(GREY, "JPEG", quality=95), GREY.convert("RGB"), 3.0),
        Odd("JPEG, progressive", encode(BASE, "JPEG", quality=95, progressive=True), BASE, 3.0),
        Odd("JPEG, every colour sampled", encode(BASE, "JPEG", quality=95, subsampling=0), BASE, 3.0),
        Odd("JPEG, restart markers", encode(BASE, "JPEG", quality=95, restart_marker_rows=1), BASE, 3.0),
        Odd("JPEG of RGB", encode(BASE, "JPEG", quality=95, keep_rgb=True), BASE, 3.0),
        Odd("JPEG, two pictures in it", encode(BASE, "MPO", quality=95, **more), BASE, 3.0),
        Odd("JPEG, something behind it", encode(BASE, "JPEG", quality=95) + b"PK\x03\x04" + bytes(500), BASE, 3.0),
        Odd("GIF", encode(palette, "GIF"), palette.convert("RGB")),
        Odd("GIF, not interlaced", encode(palette, "GIF", interlace=0), palette.convert("RGB")),
        Odd("GIF, transparent", encode(small, "GIF", transparency=0), hole),
        Odd("GIF, animated", encode(palette, "GIF", **more), palette.convert("RGB")),
        Odd("WEBP", encode(BASE, "WEBP", quality=95), BASE, 4.0),
        Odd("WEBP, alpha", encode(holey, "WEBP", lossless=True), on_white(BASE, clear)),
        Odd("WEBP, half transparent", encode(rgba, "WEBP", lossless=True, exact=True), on_white(BASE, ALPHA), 1.0),
        Odd("WEBP, animated", encode(BASE, "WEBP", lossless=True, **more), BASE),
        Odd("AVIF", encode(BASE, "AVIF", quality=95), BASE, 4.0),
        Odd("AVIF, alpha", encode(holey, "AVIF", quality=95), on_white(BASE, clear), 4.0),
        Odd("AVIF, on its side", encode(BASE.transpose(Transpose.ROTATE_90), "AVIF", quality=95, exif=_exif(6)), BASE, 4.0),
        Odd("AVIF, animated", encode(BASE, "AVIF", quality=95, **more), BASE, 4.0),
    ]


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def of_profiles() -> list[Odd]:
    rgba = BASE.copy()
    rgba.putalpha(ALPHA)
    palette = BASE.quantize(200)
    red, green, blue = palette.convert("RGB").split()
    return [
        Odd("PNG, sRGB's profile", encode(BASE, icc_profile=SRGB), BASE, 1.0),
        Odd("PNG, a profile", encode(BASE, icc_profile=SWAPPED), UNSWAPPED, 1.0),
        Odd("PNG, a profile and alpha", encode(rgba, icc_profile=SWAPPED), on_white(UNSWAPPED, ALPHA), 1.5),
        Odd(
            "PNG, a profile and a palette",
            encode(palette, icc_profile=SWAPPED),
            Image.merge("RGB", (green, blue, red)),
            1.0,
        ),
        Odd("JPEG, a profile", encode(BASE, "JPEG", quality=95, icc_profile=SWAPPED), UNSWAPPED, 4.0),
        Odd("WEBP, a profile", encode(BASE, "WEBP", lossless=True, icc_profile=SWAPPED), UNSWAPPED, 1.0),
        Odd("AVIF, a profile", encode(BASE, "AVIF", quality=95, icc_profile=SWAPPED), UNSWAPPED, 5.0),
        Odd("PNG, a profile that is none", encode(BASE, icc_profile=b"\0" * 200), BASE),
        Odd("PNG, grey with a profile of colours", encode(GREY, icc_profile=SWAPPED), GREY.convert("RGB")),
    ]


def of_phones() -> list[Odd]:
    import pillow_heif

    rgba = BASE.copy()
    rgba.putalpha(ALPHA)
    on_its_side = BASE.transpose(Transpose.ROTATE_90)
    swapped = BASE.copy()
    swapped.info["icc_profile"] = SWAPPED
    wide = pillow_heif.from_bytes("RGB;16", SIZE, b"".join(rows(BASE, _wide_little)))
    ten_bits = io.BytesIO()
    wide.save(ten_bits, quality=95)
    several = pillow_heif.from_pillow(BASE)
    several.add_from_pillow(Image.new("RGB", SIZE, "red"))
    both = io.BytesIO()
    several.save(both, quality=95, chroma=444)
    fine = {"quality": 95, "chroma": 444}
    return [
        Odd("HEIC", heic(BASE, **fine), BASE, 4.0),
        Odd("HEIC, colours sampled", heic(BASE, quality=95), BASE, 4.0),
        Odd("HEIC, grey", heic(GREY, **fine), GREY.convert("RGB"), 4.0),
        Odd("HEIC, alpha", heic(rgba, **fine), on_white(BASE, ALPHA), 5.0),
        Odd("HEIC, 10 bits", ten_bits.getvalue(), BASE, 4.0),
        Odd("HEIC, on its side", heic(on_its_side, exif=_exif(6).tobytes(), **fine), BASE, 4.0),
        Odd("HEIC, a profile", heic(swapped, **fine), UNSWAPPED, 5.0),
        Odd("HEIC, two pictures", both.getvalue(), BASE, 4.0),
        Odd("HEIC, brand mif1", patched(heic(BASE, **fine), b"ftyp", 0, b"mif1"), BASE, 4.0),
        Odd("AVIF, brand mif1", patched(encode(BASE, "AVIF", quality=95), b"ftyp", 0, b"mif1"), BASE, 4.0),
    ]


def _wide_little(*bands: int) -> bytes:
    return b"".join(bytes([0, band]) for band in bands)


def of_tiff() -> list[Odd]:
    rgba = BASE.copy()
    rgba.putalpha(ALPHA)
    cmyk = Image.merge("CMYK", [*(ImageChops.invert(band) for band in (RED, GREEN, BLUE)), Image.new("L", SIZE, 0)])
    two, palette = BASE.convert("1"), BASE.quantize(200)
    lab = ImageCms.profileToProfile(BASE, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB")
    assert lab is not None
    sixteen = GREY.convert("I").point(lambda value: value * 257).convert("I;16")
    whole, shares = GREY.convert("I"), GREY.convert("F").point(lambda value: value * (1 / 255) + 0.0)
    far = GREY.convert("F").point(lambda value: value * 10.0 - 300.0)
    low, high = GREY.getextrema()
    stretched = GREY.point(lambda value: round((value - low) * 255 / (high - low))).convert("RGB")  # type: ignore[operator]
    more = {"save_all": True, "append_images": [Image.new("RGB", SIZE, "red")]}
    found = [
        *(Odd(f"TIFF, {name}", encode(BASE, "TIFF", compression=name), BASE) for name in ("tiff_lzw", "tiff_adobe_deflate")),
        Odd("TIFF", encode(BASE, "TIFF"), BASE),
        Odd("TIFF, packbits", encode(BASE, "TIFF", compression="packbits"), BASE),
        Odd("TIFF, JPEG in it", encode(BASE, "TIFF", compression="jpeg", quality=95), BASE, 4.0),
        Odd("TIFF, fax", encode(two, "TIFF", compression="group4"), two.convert("RGB")),
        Odd("TIFF, CMYK", encode(cmyk, "TIFF"), BASE),
        Odd("TIFF, LAB", encode(lab, "TIFF"), BASE, 3.0),
        Odd("TIFF, palette", encode(palette, "TIFF"), palette.convert("RGB")),
        Odd("TIFF, alpha", encode(rgba, "TIFF"), on_white(BASE, ALPHA), 1.0),
        Odd("TIFF, grey", encode(GREY, "TIFF"), GREY.convert("RGB")),
        Odd("TIFF, 16 bits of grey", encode(sixteen, "TIFF"), GREY.convert("RGB"), 1.0),
        Odd("TIFF, 32 bits of grey", encode(whole, "TIFF"), GREY.convert("RGB"), 1.0),
        Odd("TIFF, shares of one", encode(shares, "TIFF"), GREY.convert("RGB"), 1.0),
        Odd("TIFF, of any range", encode(far, "TIFF"), stretched, 1.0),
        Odd("TIFF, big", encode(BASE, "TIFF", big_tiff=True), BASE),
        Odd("TIFF, two pages", encode(BASE, "TIFF", **more), BASE),
        Odd("TIFF, a profile", encode(BASE, "TIFF", icc_profile=SWAPPED), UNSWAPPED, 1.0),
    ]
    for orientation, turn in TURNED.items():
        stored = BASE if turn is None else BASE.transpose(turn)
        found.append(Odd(f"TIFF, orientation {orientation}", encode(stored, "TIFF", tiffinfo={0x0112: orientation}), BASE))
    return found


def of_desktops() -> list[Odd]:
    rgba, palette, two = BASE.copy(), BASE.quantize(200), BASE.convert("1")
    rgba.putalpha(ALPHA)
    square, large = BASE.resize((56, 56)), BASE.resize((224, 224))
    return [
        Odd("BMP", encode(BASE, "BMP"), BASE),
        Odd("BMP, palette", encode(palette, "BMP"), palette.convert("RGB")),
        Odd("BMP, 1 bit", encode(two, "BMP"), two.convert("RGB")),
        Odd("BMP, grey", encode(GREY, "BMP"), GREY.convert("RGB")),
        Odd("BMP, 32 bits, of which 8 say nothing", encode(rgba, "BMP"), BASE),
        Odd("BMP, of OS/2", _old_bmp(), BASE),
        Odd("BMP, from the top", _downwards_bmp(), BASE),
        Odd("ICO", encode(square, "ICO", sizes=[(16, 16), (56, 56)]), square),
        Odd("ICO of BMP", encode(large, "ICO", sizes=[(224, 224)], bitmap_format="bmp"), large),
        Odd("JPEG 2000", encode(BASE, "JPEG2000"), BASE),
        Odd("JPEG 2000, lossy", encode(BASE, "JPEG2000", irreversible=True, quality_layers=[8]), BASE, 4.0),
        Odd("JPEG 2000, grey", encode(GREY, "JPEG2000"), GREY.convert("RGB")),
        Odd("JPEG 2000, alpha", encode(rgba, "JPEG2000"), on_white(BASE, ALPHA), 1.0),
        Odd("JPEG 2000, codes alone", encode(BASE, "JPEG2000", no_jp2=True), BASE),
        Odd("JPEG 2000, tiles", encode(BASE, "JPEG2000", tile_size=(32, 32)), BASE),
    ]


def _bmp_rows(image: Image.Image) -> bytes:
    pad = -3 * WIDTH % 4
    return b"".join(row + bytes(pad) for row in rows(image, lambda red, green, blue: bytes([blue, green, red])))


def _old_bmp() -> bytes:
    body = _bmp_rows(BASE.transpose(Transpose.FLIP_TOP_BOTTOM))
    return struct.pack("<2sIHHIIHHHH", b"BM", 26 + len(body), 0, 0, 26, 12, WIDTH, HEIGHT, 1, 24) + body


def _downwards_bmp() -> bytes:
    body = _bmp_rows(BASE)
    head = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 54 + len(body), 0, 0, 54, 40, WIDTH, -HEIGHT, 1, 24, 0, 0, 0, 0, 0, 0)
    return head + body


def of_ends_and_ballast() -> list[Odd]:
    jpeg, progressive = encode(BASE, "JPEG", quality=95), encode(BASE, "JPEG", quality=95, progressive=True)
    text, workflow = PngInfo(), "x" * 3_000_000
    text.add_text("workflow", workflow)
    packed, unpacked = PngInfo(), PngInfo()
    packed.add_text("prompt", workflow, zip=True)
    unpacked.add_itxt("parameters", workflow)
    return [
        Odd("JPEG, its end mark missing", jpeg[:-2], BASE, 3.0),
        Odd("JPEG, cut in the last row", jpeg[:-30], BASE, 8.0),
        Odd("JPEG, progressive, cut in its last scan", progressive[:-100], BASE, 3.0),
        Odd("JPEG, zeros behind it", jpeg + bytes(100_000), BASE, 3.0),
        Odd("PNG, a text of 3 MB", encode(BASE, pnginfo=text), BASE),
        Odd("PNG, a packed text of 3 MB", encode(BASE, pnginfo=packed), BASE),
        Odd("PNG, an international text of 3 MB", encode(BASE, pnginfo=unpacked), BASE),
        Odd("PNG, a profile with 3 MB behind it", encode(BASE, icc_profile=_long(SWAPPED)), UNSWAPPED, 1.0),
        Odd("PNG, a profile of 20 MB", encode(BASE, icc_profile=bytes(20_000_000)), BASE),
        Odd("PNG without its end mark", encode(BASE)[:-12], BASE),
    ]


def _long(profile: bytes) -> bytes:
    """Make a profile longer than Pillow takes in a PNG; printers' have tables of that length."""
    data = profile + bytes(3_000_000)
    return len(data).to_bytes(4, "big") + data[4:]


ODD = [
    *(*oriented(), *of_png(), *of_others(), *of_profiles()),
    *(*of_phones(), *of_tiff(), *of_desktops(), *of_ends_and_ballast()),
]


def test_there_are_many() -> None:
    assert len({odd.name for odd in ODD}) == len(ODD) >= 120


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.name)
def test_an_odd_picture_comes_out_as_it_is_shown(odd: Odd) -> None:
    pixels = decode_image(odd.data, BOUNDS)

    assert (pixels.width_px, pixels.height_px) == odd.shown.size
    difference = ImageChops.difference(pixels.as_image(), odd.shown)
    bands = [difference.getchannel(n).get_flattened_data() for n in range(3)]
    assert max(sum(band) / len(band) for band in bands) <= odd.off


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK"])
def test_a_large_picture_is_scaled_in_bands_as_if_it_were_whole(mode: str) -> None:
    image_format = "JPEG" if mode == "CMYK" else "PNG"
    large = BASE.resize((2520, 1680), Image.Resampling.BICUBIC)
    if mode == "RGBA":
        large.putalpha(ALPHA.resize(large.size))
    data = encode(large.convert(mode) if mode != "RGBA" else large, image_format)
    bounds = Bounds(factor_px=28, min_px=28 * 28, max_px=6 * 28 * 28, max_source_px=50_000_000)

    pixels = decode_image(data, bounds)

    whole = Image.open(io.BytesIO(data)).convert("RGBA")
    white = Image.new("RGBA", whole.size, "white")
    shown = Image.alpha_composite(white, whole).convert("RGB").resize(SIZE, Image.Resampling.BICUBIC)
    assert furthest(pixels.as_image(), shown) <= (24 if mode == "P" else 8)


@pytest.mark.skipif(not pictures.HAS_RESIZER, reason="there is none for this machine, and Pillow scales")
@pytest.mark.parametrize("size", [(64, 48), (333, 777), (1024, 768), (1500, 1001), (3001, 1999)])
def test_pictures_are_scaled_by_pillows_filter(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    noise = Image.effect_noise((size[0] // 3, size[1] // 3), 80)
    image = Image.merge("RGB", [noise.resize(size), noise.transpose(Transpose.ROTATE_180).resize(size), noise.resize(size)])
    bounds = Bounds(28, 256 * 28 * 28, 1280 * 28 * 28, 50_000_000)

    found = decode_image(encode(image, "PNG"), bounds).as_image()
    monkeypatch.setattr(pictures, "HAS_RESIZER", False)
    rows_first = decode_image(encode(image, "PNG"), bounds).as_image()

    columns_first = image.transpose(Transpose.TRANSPOSE).resize(found.size[::-1], Image.Resampling.BICUBIC)
    assert furthest(found, columns_first.transpose(Transpose.TRANSPOSE)) <= 2
    assert furthest(rows_first, image.resize(found.size, Image.Resampling.BICUBIC)) == 0


def furthest(one: Image.Image, other: Image.Image) -> int:
    """Give the largest difference of two pictures, of 255."""
    return max(int(high) for _, high in ImageChops.difference(one, other).getextrema())
