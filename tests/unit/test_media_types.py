"""A file is what its first bytes say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UnsupportedMedia
from shared.media_types import HEAD_BYTES, SUFFIXES, check_kind, kind_of, serves_as, sniff
from shared.unsupported_files import describe
from sightline.client.core import VIDEO_SUFFIXES
from tests.media import clip, heic, patched, picture

TAKEN = {
    *(f"image/{name}" for name in ("jpeg", "png", "webp", "gif", "avif", "heic", "tiff", "bmp", "jp2", "x-icon")),
    *(f"video/{name}" for name in ("mp4", "quicktime", "x-matroska", "x-msvideo", "x-flv", "mp2t", "mpeg", "x-ms-asf", "ogg")),
}


def test_what_is_collected_from_folders_is_what_is_taken() -> None:
    suffixes = [suffix for of_type in SUFFIXES.values() for suffix in of_type]

    assert SUFFIXES.keys() == TAKEN
    videos = {f".{suffix}" for kind in SUFFIXES if kind_of(kind) == "video" for suffix in SUFFIXES[kind]}
    assert set(VIDEO_SUFFIXES) == videos  # the client, which stands alone, has a list of its own
    assert len(suffixes) == len(set(suffixes))


@pytest.mark.parametrize(
    ("image_format", "media_type"),
    [
        *((name, f"image/{name.lower()}") for name in ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF")),
        *(("JPEG2000", "image/jp2"), ("ICO", "image/x-icon"), ("MPO", "image/jpeg")),
    ],
)
def test_pictures_are_known_by_their_start(image_format: str, media_type: str) -> None:
    head = picture(image_format=image_format)[:HEAD_BYTES]

    assert sniff(head) == media_type
    assert kind_of(media_type) == "image"


@pytest.mark.parametrize(
    ("container", "codec", "media_type"),
    [
        ("mp4", "libx264", "video/mp4"),
        ("mov", "libx264", "video/quicktime"),
        ("matroska", "libx264", "video/x-matroska"),
        ("webm", "libvpx", "video/x-matroska"),
        ("3gp", "mpeg4", "video/mp4"),
        ("avi", "mpeg4", "video/x-msvideo"),
        ("flv", "libx264", "video/x-flv"),
        ("mpegts", "libx264", "video/mp2t"),
        ("mpeg", "mpeg2video", "video/mpeg"),
        ("asf", "msmpeg4", "video/x-ms-asf"),
    ],
)
def test_videos_are_known_by_their_start(container: str, codec: str, media_type: str) -> None:
    head = clip([0, 255], rate=25, container=container, codec=codec)[:HEAD_BYTES]

    assert sniff(head) == media_type
    assert kind_of(media_type) == "video"


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\xff\xd8",
        b"\x89PNG",
        b"hello, I am cat.png",
        b"%PDF-1.7",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<html><img src=x></html>",
        b"PK\x03\x04",
        b"BM" + bytes(60),
        b"II*\x00" + bytes(60),
        b"\x00\x00\x01\x00",
        b"8BPS",
        b"RIFF\x00\x00\x00\x00WAVEfmt ",
        b"ID3\x03\x00",
        b"#EXTM3U\nhttp://127.0.0.1/",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"\x00\x00\x00\x18ftypcrx \x00\x00\x00\x01crx isom",
        b"\x00\x00\x00\x18ftypjxl \x00\x00\x00\x00jxl ",
        b"II*\x00\x02\x00\x00\x00",
        b"G" + bytes(187) + b"H" + bytes(187),
    ],
)
def test_everything_else_is_nothing(head: bytes) -> None:
    assert sniff(head) is None


def brands(major: bytes, *others: bytes) -> bytes:
    """Write the box with which every file of the ISO base media format begins."""
    body = major + bytes(4) + b"".join(others)
    return (8 + len(body)).to_bytes(4, "big") + b"ftyp" + body + b"\x00\x00\x00\x28meta"


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        (brands(b"heic", b"mif1", b"heic"), "image/heic"),
        (brands(b"heic", b"mif1", b"MiHB", b"MiHE", b"MiPr", b"miaf", b"heic", b"tmap"), "image/heic"),
        (brands(b"heix", b"mif1", b"heix"), "image/heic"),
        (brands(b"mif1", b"mif1", b"heic"), "image/heic"),
        (brands(b"msf1", b"heis", b"hevc", b"mp41"), "image/heic"),
        (brands(b"mif1"), "image/heic"),
        (brands(b"mif1", b"avif", b"miaf"), "image/avif"),
        (brands(b"mif1", b"miaf") + b"....infe....av01", "image/avif"),
        (brands(b"miaf", b"MA1B", b"avif"), "image/avif"),
        (brands(b"avis", b"avif", b"msf1", b"iso8"), "image/avif"),
        (brands(b"1pic", b"mif1", b"avif"), "image/avif"),
        (brands(b"isom", b"iso2", b"avc1", b"mp41"), "video/mp4"),
        (brands(b"mp42", b"isom", b"mif1"), "video/mp4"),
        (brands(b"qt  ", b"qt  "), "video/quicktime"),
        (b"\x00\x00\x00\x08wide\x00\x00\x10\x00mdat", "video/quicktime"),
        (b"\x00\x00\x00\x08free\x00\x00\x10\x00mdat", "video/quicktime"),
        (b"\x00\x00\x10\x00moov\x00\x00\x00\x6cmvhd", "video/quicktime"),
        (b"II+\x00\x08\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00", "image/tiff"),
        (b"MM\x00*\x00\x00\x00\x08", "image/tiff"),
        (b"\xff\x4f\xff\x51\x00\x2f", "image/jp2"),
        (b"".join(bytes(4) + b"G" + bytes(187) for _ in range(3)), "video/mp2t"),
    ],
)
def test_brands_and_first_atoms_tell_what_it_is(head: bytes, media_type: str) -> None:
    assert sniff(head) == media_type


def test_a_heic_is_known_by_any_brand() -> None:
    data = heic()

    assert sniff(data[:HEAD_BYTES]) == "image/heic"
    assert sniff(patched(data, b"ftyp", 0, b"mif1")[:HEAD_BYTES]) == "image/heic"


@pytest.mark.parametrize(
    ("media_type", "as_video"),
    [("image/gif", True), ("image/webp", True), ("image/jpeg", False), ("video/mp4", True), ("image/heic", False)],
)
def test_what_moves_can_be_a_video_too(media_type: str, as_video: bool) -> None:  # noqa: FBT001
    assert serves_as(media_type, "video") == as_video
    assert serves_as(media_type, "image") == media_type.startswith("image/")


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"", "empty"),
        (b"%PDF-1.7\n", "PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b'<?xml version="1.0"?>\n<!-- made by hand -->\n<svg>', "SVG"),
        (b"\n<!DOCTYPE html><html>", "HTML"),
        (b"<html lang=zh>", "HTML"),
        (b'{"error": "not found"}', "JSON"),
        (b"[]", "JSON"),
        (b"#EXTM3U\n", "playlist"),
        (b"\xff\x0a\x00", "JPEG XL"),
        (b"\x00\x00\x00\x18ftypcrx ", "raw file"),
        (b"8BPS\x00\x01", "Photoshop"),
        (b"PK\x03\x04", "archive"),
        (b"ID3\x03\x00", "sound"),
        (b"data:image/png;base64,iVBORw0KGgo", "data-URL"),
        (b"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==", "base64"),
        (b"not found, sorry", "plain text"),
        (b"\x00\x01\x02", "neither a picture"),
    ],
)
def test_a_stranger_is_named(head: bytes, words: str) -> None:
    assert words in describe(head)
    assert sniff(head) is None


@given(st.binary(max_size=HEAD_BYTES))
def test_no_bytes_confuse_it(head: bytes) -> None:
    assert sniff(head) in TAKEN | {None}


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\xef\xbb\xbf\r\n <HTML>", "web page"),
        (b'<?xml version="1.0"?><svg>', "SVG"),
        (b'{"error": "expired"}', "JSON"),
        (b"%PDF-1.7", "PDF"),
        (b"PK\x03\x04", "archive"),
        (b"\x00\x01nothing that anybody knows", "neither a picture"),
    ],
)
def test_a_refusal_says_what_the_file_looks_like(head: bytes, message: str) -> None:
    with pytest.raises(UnsupportedMedia, match=message) as caught:
        check_kind(head, "image", param="images.0")

    assert caught.value.param == "images.0"


def test_a_picture_is_no_video() -> None:
    with pytest.raises(UnsupportedMedia, match="image/png, used as a video"):
        check_kind(picture(image_format="PNG")[:HEAD_BYTES], "video")
    with pytest.raises(UnsupportedMedia, match="video/mp4, used as a picture"):
        check_kind(clip([0, 255])[:HEAD_BYTES], "image")
