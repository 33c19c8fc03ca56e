"""data-URLs as clients write them, and what is none."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.data_urls import decode_data_url, first_bytes, frames_of, is_data_url
from shared.errors import BadMediaReference, BodyTooLarge
from shared.media_types import HEAD_BYTES

MOST = 2**20


def mime(data: bytes, line: int, end: str) -> str:
    return end.join(textwrap.wrap(base64.b64encode(data).decode(), line)) + end


def escaped(text: str) -> str:
    return "".join(f"%{ord(character):02x}" for character in text)


#: What writes base64 in which way; each gets the bytes and gives the whole URL.
WAYS: dict[str, Callable[[bytes], str]] = {
    "plain": lambda data: "data:image/png;base64," + base64.b64encode(data).decode(),
    "no type": lambda data: "data:;base64," + base64.b64encode(data).decode(),
    "no type, no semicolon before": lambda data: "data:;charset=x;base64," + base64.b64encode(data).decode(),
    "base64 of coreutils": lambda data: "data:image/png;base64," + mime(data, 76, "\n"),
    "PEM": lambda data: "data:image/png;base64," + mime(data, 64, "\r\n"),
    "Python's encodebytes": lambda data: "data:image/png;base64,\n" + base64.encodebytes(data).decode(),
    "blanks": lambda data: "data:image/png;base64, " + mime(data, 8, " "),
    "tabs and form feeds": lambda data: "data:image/png;base64,\t" + mime(data, 9, "\f\t"),
    "no padding": lambda data: "data:image/png;base64," + base64.b64encode(data).decode().rstrip("="),
    "URL-safe": lambda data: "data:image/png;base64," + base64.urlsafe_b64encode(data).decode(),
    "URL-safe, no padding": lambda data: "data:image/png;base64," + base64.urlsafe_b64encode(data).decode().rstrip("="),
    "encodeURIComponent": lambda data: "data:image/png;base64," + quote(base64.b64encode(data), safe=""),
    "every character escaped": lambda data: "data:image/png;base64," + escaped(base64.b64encode(data).decode()),
    "line breaks escaped": lambda data: "data:image/png;base64," + mime(data, 76, "%0D%0A"),
    "URL-safe, escaped": lambda data: "data:image/png;base64," + escaped(base64.urlsafe_b64encode(data).decode()),
    "in capitals": lambda data: "DATA:IMAGE/PNG;BASE64," + base64.b64encode(data).decode(),
    "mixed": lambda data: "Data:image/png;Base64," + base64.b64encode(data).decode(),
    "blanks in the head": lambda data: " \ndata: image/png ; base64 ," + base64.b64encode(data).decode(),
    "with parameters": lambda data: "data:image/png;name=a b.png;base64," + base64.b64encode(data).decode(),
    "a break in the head": lambda data: "data:image/png;\nbase64," + base64.b64encode(data).decode(),
}


@pytest.mark.parametrize("way", WAYS)
@given(data=st.binary(min_size=1, max_size=3 * HEAD_BYTES))
def test_every_way_to_write_it_gives_the_same_bytes(way: str, data: bytes) -> None:
    url = WAYS[way](data)

    assert is_data_url(url)
    assert decode_data_url(url, param="x", max_bytes=MOST) == data
    start = first_bytes(url, param="x")
    assert data.startswith(start)
    assert len(start) >= min(len(data), HEAD_BYTES - 3) // 3 * 3


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64",
        "data:image/png,AAAA",
        "data:image/png;base32,AAAA",
        "data:image/png;base64,",
        "data:image/png;base64, \n",
        "data:image/png;base64,====",
        "data:image/png;base64,A",
        "data:image/png;base64,AAAAA",
        "data:image/png;base64,AA=AA",
        "data:image/png;base64,@@@@",
        "data:image/png;base64,AA%",
        "data:image/png;base64,AA%zz",
        "data:image/png;base64,图片",
        "data:image/png;base64,\ud800",
        "date:image/png;base64,AAAA",
    ],
)
def test_what_is_no_base64_is_refused(url: str) -> None:
    with pytest.raises(BadMediaReference):
        decode_data_url(url, param="x", max_bytes=MOST)


def test_its_length_is_told_before_it_is_decoded() -> None:
    with pytest.raises(BodyTooLarge, match="POST /v1/files"):
        decode_data_url("data:image/png;base64," + "%2B" * 500, param="x", max_bytes=300)
    assert len(decode_data_url("data:image/png;base64," + "%2B" * 400, param="x", max_bytes=300)) == 300


def test_megabytes_of_line_breaks_are_read() -> None:
    data = bytes(range(256)) * 40_000
    file = io.StringIO()
    file.write("data:image/png;base64,")
    file.write(base64.encodebytes(data).decode())

    assert decode_data_url(file.getvalue(), param="x", max_bytes=len(data)) == data


@pytest.mark.parametrize("reference", ["https://example.org/data:image/png;base64,AAAA", "file-1", "", "data", "blob:data:"])
def test_other_references_are_none(reference: str) -> None:
    assert not is_data_url(reference)


def test_a_video_may_come_as_its_frames() -> None:
    assert frames_of(["a", "b"]) == ["a", "b"]
    assert frames_of("data:video/jpeg;base64,QQ==,Qg==") == ["data:image/jpeg;base64,QQ==", "data:image/jpeg;base64,Qg=="]
    assert frames_of("DATA:video/JPEG;base64,QQ==") == ["data:image/jpeg;base64,QQ=="]
    assert frames_of("data:video/mp4;base64,QQ==") is None
    assert frames_of("https://example.org/film.mp4") is None
