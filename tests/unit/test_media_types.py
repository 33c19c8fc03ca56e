"""A file is what its first bytes say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UnsupportedMedia
from shared.media_types import HEAD_BYTES, check_kind, kind_of, sniff
from tests.media import clip, picture

TAKEN = {"image/jpeg", "image/png", "image/webp", "image/gif", "image/avif", "video/mp4", "video/quicktime", "video/x-matroska"}


@pytest.mark.parametrize(
    ("image_format", "media_type"), [(name, f"image/{name.lower()}") for name in ("JPEG", "PNG", "WEBP", "GIF", "AVIF")]
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
    ],
)
def test_videos_are_known_by_their_start(container: str, codec: str, media_type: str) -> None:
    head = clip([0, 255], container=container, codec=codec)[:HEAD_BYTES]

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
        b"RIFF\x00\x00\x00\x00AVI LIST",
        b"ID3\x03\x00",
        b"#EXTM3U\nhttp://127.0.0.1/",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00",
        b"\x00\x00\x00\x18ftypheix\x00\x00\x00\x00",
        b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00",
    ],
)
def test_everything_else_is_nothing(head: bytes) -> None:
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
        (b"nothing that anybody knows", "neither a picture"),
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
