"""Hostile pictures, and files that are none."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from tests.media import RED, encode, heic, picture

Made = Iterator[tuple[str, bytes]]


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2, body: bytes = b"") -> bytes:
    """Write a PNG whose header says what it likes."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", body or zlib.compress(b"")), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def zeros(n_bytes: int) -> bytes:
    """Compress zeros without having them all at once."""
    packer, block = zlib.compressobj(9), bytes(2**20)
    packed = [packer.compress(block) for _ in range(n_bytes // len(block))]
    return b"".join([*packed, packer.compress(bytes(n_bytes % len(block))), packer.flush()])


def bombs() -> Made:
    yield "png 13377 x 13377", png(13_377, 13_377, body=zeros(13_377 * (13_377 * 3 + 1)))
    yield "png 9459 x 9459", png(9459, 9459, body=zeros(9459 * (9459 * 3 + 1)))
    yield "png 30000 x 30000, 1 bit", png(30_000, 30_000, depth=1, colour=0, body=zeros(30_000 * 3751))
    yield "png 2147483647 x 2147483647", png(2**31 - 1, 2**31 - 1)
    yield "png 7070 x 7070, as large as may be", png(7070, 7070, body=zeros(7070 * (7070 * 3 + 1)))
    yield "png 7070 x 7070 with alpha", png(7070, 7070, colour=6, body=zeros(7070 * (7070 * 4 + 1)))
    yield "png 64 x 64 whose data go on for 200 MB", png(64, 64, body=zeros(200 * 2**20))
    yield "png, 64 MB of zTXt", png(64, 64, png_chunk(b"zTXt", b"a\0\0" + zeros(64 * 2**20)))
    yield "png, 64 MB of iCCP", png(64, 64, png_chunk(b"iCCP", b"a\0\0" + zeros(64 * 2**20)))
    yield "png, 64 MB of iTXt", png(64, 64, png_chunk(b"iTXt", b"a\0\1\0\0\0" + zeros(64 * 2**20)))
    yield "png, 20000 texts", png(64, 64, *[png_chunk(b"tEXt", b"a\0" + b"x" * 900)] * 20_000)
    webp = bytearray(picture(RED, (64, 64), "WEBP", lossless=True))
    webp[21:25] = struct.pack("<I", 16_382 | 10_899 << 14)
    yield "webp 16383 x 10900", bytes(webp)
    jpeg = bytearray(picture(RED, (64, 64), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
    yield "jpeg 60000 x 60000", bytes(jpeg)
    jpeg[at : at + 4] = struct.pack(">HH", 7000, 7000)
    yield "jpeg 7000 x 7000, nearly empty", bytes(jpeg)
    gif = bytearray(picture(RED, (64, 64), "GIF"))
    gif[6:10] = struct.pack("<HH", 65_535, 65_535)
    yield "gif 65535 x 65535", bytes(gif)
    avif = bytearray(picture(RED, (64, 64), "AVIF"))
    at = avif.index(b"ispe") + 8
    avif[at : at + 8] = struct.pack(">II", 16_384, 16_384)
    yield "avif 16384 x 16384", bytes(avif)
    avif[at : at + 8] = struct.pack(">II", 7000, 7000)
    yield "avif 7000 x 7000, nearly empty", bytes(avif)
    yield "tiff, deflated", encode(Image.new("1", (13_300, 13_300)), "TIFF", compression="tiff_deflate")


def newer_bombs() -> Made:
    heif = bytearray(heic())
    at = heif.index(b"ispe") + 8
    for side in (16_384, 7000):
        heif[at : at + 8] = struct.pack(">II", side, side)
        yield f"heic {side} x {side}, nearly empty", bytes(heif)
    bmp = bytearray(picture(RED, (64, 64), "BMP"))
    for width, height in ((60_000, 60_000), (7000, 7000), (-1, 64), (64, -(2**31))):
        bmp[18:26] = struct.pack("<ii", width, height)
        yield f"bmp {width} x {height}", bytes(bmp)
    yield "bmp of runs that go on for ever", _runs()
    jp2 = bytearray(picture(RED, (64, 64), "JPEG2000", no_jp2=True))
    for side in (2**31 - 1, 60_000, 7000):
        jp2[8:16] = struct.pack(">II", side, side)
        yield f"jp2 {side} x {side}, one tile", bytes(jp2)
    jp2[24:32] = struct.pack(">II", 1, 1)
    yield "jp2 of 49000000 tiles", bytes(jp2)
    icon = bytearray(encode(Image.new("RGB", (64, 64), "red"), "ICO", sizes=[(64, 64)]))
    start = struct.unpack_from("<I", icon, 18)[0]
    yield "ico with a png of 9459 x 9459", bytes(icon[:start]) + png(9459, 9459, body=zeros(9459 * (9459 * 3 + 1)))
    loop = bytearray(encode(Image.new("RGB", (64, 64), "red"), "TIFF"))
    (directory,) = struct.unpack_from("<I", loop, 4)
    (n_tags,) = struct.unpack_from("<H", loop, directory)
    struct.pack_into("<I", loop, directory + 2 + 12 * n_tags, directory)
    yield "tiff whose next page is itself", bytes(loop)
    yield "tiff of 60000 x 60000", _tiff(60_000, 60_000)
    yield "tiff of 7000 x 7000, nearly empty", _tiff(7000, 7000)


def _runs() -> bytes:
    """Write a BMP of run lengths that never reach the end of a line."""
    body = b"\xff\x01" * 200_000
    head = struct.pack("<IiiHHIIiiII", 40, 64, 64, 1, 8, 1, len(body), 0, 0, 256, 0)
    return struct.pack("<2sIHHI", b"BM", 14 + 40 + 1024 + len(body), 0, 0, 14 + 40 + 1024) + head + bytes(1024) + body


def _tiff(width: int, height: int) -> bytes:
    """Write a deflated TIFF whose header says what it likes."""
    data = bytearray(encode(Image.new("RGB", (64, 64), "red"), "TIFF", compression="tiff_adobe_deflate"))
    (directory,) = struct.unpack_from("<I", data, 4)
    (n_tags,) = struct.unpack_from("<H", data, directory)
    for at in range(directory + 2, directory + 2 + 12 * n_tags, 12):
        (tag,) = struct.unpack_from("<H", data, at)
        if tag in {256, 257, 278}:
            struct.pack_into("<HII", data, at + 2, 4, 1, width if tag == 256 else height)
    return bytes(data)


def large() -> Made:
    """Make pictures inside the limits of size that take much memory or time; making them takes some seconds."""
    grey = Image.new("RGB", (7070, 7070), "grey")
    yield "webp 7070 x 7070", encode(grey, "WEBP", method=0)
    yield "avif 7070 x 7070", encode(grey, "AVIF", speed=10)
    yield "jpeg 7070 x 7070, progressive 4:4:4", encode(grey, "JPEG", progressive=True, subsampling=0)
    yield "jpeg 12000 x 9000, a phone's", encode(Image.new("RGB", (12_000, 9000), "grey"), "JPEG")
    yield "jpeg 16320 x 12240, a phone's", encode(Image.new("RGB", (16_320, 12_240), "grey"), "JPEG")
    yield "jpeg 1080 x 32000", encode(Image.new("RGB", (1080, 32_000), "grey"), "JPEG")
    yield "webp 6000 x 4000", encode(Image.effect_noise((6000, 4000), 90).convert("RGB"), "WEBP", method=0, quality=60)
    yield "heic 8064 x 6048, a phone's", heic(Image.new("RGB", (8064, 6048), "grey"), enc_params={"preset": "ultrafast"})
    yield "jp2 7070 x 7070", encode(grey, "JPEG2000", irreversible=True, quality_layers=[80])
    yield "tiff 7070 x 7070", encode(grey, "TIFF", compression="tiff_lzw")
    yield "bmp 4600 x 4600, as large as files get", encode(grey.resize((4600, 4600)), "BMP")
    scans = encode(Image.new("L", (7000, 7000), 90), "JPEG", progressive=True)
    last = scans.rindex(b"\xff\xda")
    yield "jpeg of 1000 scans", scans[:last] + scans[last:-2] * 1000 + scans[-2:]


def shapes() -> Made:
    for width, height in ((1, 60_000), (60_000, 1), (1, 16_384), (16_384, 3), (2000, 9), (0, 0), (0, 100), (1, 1)):
        yield f"png {width} x {height}", png(width, height, body=zlib.compress(bytes(height * (3 * width + 1))))
    yield "png of depth 3", png(8, 8, depth=3)
    yield "png of colour 9", png(8, 8, colour=9)


def broken() -> Made:
    noise = Image.effect_noise((200, 200), 80).convert("RGB")
    for image_format in ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "TIFF", "BMP", "JPEG2000", "ICO", "HEIC"):
        whole = heic(noise) if image_format == "HEIC" else encode(noise, image_format)
        for share in (1, 50, 95):
            yield f"{image_format.lower()}, {share} % of it", whole[: len(whole) * share // 100]
        yield f"{image_format.lower()}, first bytes only", whole[:16]
    yield "webp whose chunk says 4 GB", b"RIFF\xff\xff\xff\xffWEBPVP8 \xff\xff\xff\xff" + bytes(100)
    wrong = bytearray(encode(noise))
    wrong[40] ^= 0xFF
    yield "png with a wrong sum", bytes(wrong)
    exif = Image.Exif()
    exif[0x0112] = 6
    for offset in (8, 0xFFFFFFFF):
        data = bytearray(encode(noise, "JPEG", exif=exif))
        at = data.index(b"II*\x00") if b"II*\x00" in data else data.index(b"MM\x00*")
        data[at + 4 : at + 8] = struct.pack(">I", offset)
        yield f"jpeg, exif that points to {offset}", bytes(data)


def polyglots() -> Made:
    jpeg, script = picture(RED, image_format="JPEG"), b"<script>alert(1)</script>"
    yield "jpeg with a zip behind it", jpeg + b"PK\x03\x04" + bytes(200)
    yield "jpeg with a script in its comment", jpeg[:2] + b"\xff\xfe" + struct.pack(">H", len(script) + 2) + script + jpeg[2:]
    yield "gif that is a script", b"GIF89a/*" + bytes(20) + b"*/=alert(1);"
    yield "png with html behind it", picture(RED) + b"<html>" + script
    yield "pdf with a jpeg in it", b"%PDF-1.7\n" + jpeg


def strangers() -> Made:
    """Make files of kinds that are not taken, some of which Pillow would open."""
    small = Image.new("RGB", (64, 64), "red")
    for image_format in ("PPM", "TGA", "PCX", "DDS", "EPS", "PDF", "ICNS"):
        file = io.BytesIO()
        (small.resize((128, 128)) if image_format == "ICNS" else small).save(file, image_format)
        yield image_format.lower(), file.getvalue()
    yield "svg", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    yield "svg with entities", b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a;</svg>'
    yield "html", b"<!doctype html><img src=x onerror=alert(1)>"
    yield "psd", b"8BPS\x00\x01" + bytes(200)
    yield "fits, gzipped", gzip.compress(b"SIMPLE  =                    T" + bytes(10_000))
    yield "heic", b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(200)
    yield "jxl", b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(200)
    yield "zip", b"PK\x03\x04" + bytes(200)
    yield "elf", b"\x7fELF\x02\x01\x01" + bytes(200)
    yield "pickle", b"\x80\x04\x95\x10\x00\x00\x00cposix\nsystem\n"
    yield "empty", b""
    yield "one byte", b"\xff"
