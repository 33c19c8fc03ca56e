"""data-URLs in every way that clients write them."""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from urllib.parse import quote

from demo.scenes import scene
from tests.field.pictures import SCENES
from tests.field.table import Answer, Row, Service, says

FAMILY = "data-URLs"


def _plain(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _wrapped(data: bytes, line: int, end: str) -> str:
    return end.join(textwrap.wrap(_plain(data), line)) + end


WAYS: dict[str, Callable[[bytes], str]] = {
    "as it should be": lambda data: "data:image/jpeg;base64," + _plain(data),
    "another type": lambda data: "data:video/mp4;base64," + _plain(data),
    "no type": lambda data: "data:;base64," + _plain(data),
    "a type without a meaning": lambda data: "data:application/octet-stream;base64," + _plain(data),
    "parameters": lambda data: "data:image/jpeg;name=a%20b.jpg;charset=utf-8;base64," + _plain(data),
    "lines of 76": lambda data: "data:image/jpeg;base64," + _wrapped(data, 76, "\n"),
    "lines of 76, CRLF": lambda data: "data:image/jpeg;base64," + _wrapped(data, 76, "\r\n"),
    "lines of 64": lambda data: "data:image/jpeg;base64," + _wrapped(data, 64, "\n"),
    "a line break first": lambda data: "data:image/jpeg;base64,\n" + _plain(data),
    "a line break last": lambda data: "data:image/jpeg;base64," + _plain(data) + "\n",
    "blanks in it": lambda data: "data:image/jpeg;base64, " + _wrapped(data, 100, " "),
    "blanks before base64": lambda data: "data:image/jpeg;  base64," + _plain(data),
    "blanks around it": lambda data: "  data:image/jpeg;base64," + _plain(data) + "  ",
    "no padding": lambda data: "data:image/jpeg;base64," + _plain(data + b"\0" * (1 + -len(data) % 3)).rstrip("="),
    "URL-safe": lambda data: "data:image/jpeg;base64," + base64.urlsafe_b64encode(data).decode(),
    "URL-safe, no padding": lambda data: "data:image/jpeg;base64," + base64.urlsafe_b64encode(data).decode().rstrip("="),
    "escaped": lambda data: "data:image/jpeg;base64," + quote(_plain(data), safe=""),
    "escaped in small letters": lambda data: "data:image/jpeg;base64," + _plain(data).replace("+", "%2b").replace("/", "%2f"),
    "escaped line breaks": lambda data: "data:image/jpeg;base64," + _wrapped(data, 76, "%0A"),
    "all of it escaped": lambda data: "data:image/jpeg;base64," + "".join(f"%{ord(letter):02X}" for letter in _plain(data)),
    "in capitals": lambda data: "DATA:IMAGE/JPEG;BASE64," + _plain(data),
    "with a capital": lambda data: "Data:image/jpeg;Base64," + _plain(data),
}


DOORS: dict[str, Callable[[str, Service], Answer]] = {
    "chat": lambda url, service: service.chat(url, "image"),
    "job": lambda url, service: service.job(url, "image"),
    "response": lambda url, service: service.responses(url),
}


def rows() -> Iterator[Row]:
    """Give each way by a chat, by a job and by a response."""
    seeds = cycle(SCENES)
    for name, write in WAYS.items():
        for door, ask in DOORS.items():
            drawn = scene(next(seeds))
            yield Row(FAMILY, f"{name}, {door}", partial(ask, write(drawn.jpeg())), says(drawn.truth))
