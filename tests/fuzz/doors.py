"""Text that is no text, nesting without an end and huge headers, to every route of the API's description and to others.

Each request goes as bytes over a connection of its own, since clients refuse to write most of these.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from tests.media import data_url, picture

#: JSON values that stand in the place of a good one.
BAD_VALUES = (
    rb'"\ud800"',
    rb'"a\udfffb"',
    rb'"\udc00\ud800"',
    rb'"\u0000"',
    b'"\xed\xa0\x80"',
    b'"\xff"',
    b'"\xc0\x80"',
    b"1e400",
    b"-1e400",
    b"NaN",
    b"Infinity",
    b"9" * 5000,
    b"[" * 10_000 + b"]" * 10_000,
    b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    rb'{"\ud800": 1}',
    b'{"a": 1, "a": 2}',
    b"1",
    b"[]",
    b'{"a": null}',
    rb'"\\A\\1%s{0}\r\n"',
)
#: Bodies that are no JSON object at all.
BAD_BODIES = (
    b"",
    b"null",
    b"[]",
    b'"x"',
    b"{",
    b"\xff\xfe{\x00}\x00",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    "{}".encode("utf-32"),
)
BAD_TEXTS = (
    "%ED%A0%80",
    "%FF",
    "%00",
    "%C0%80",
    "%F5%80%80%80",
    "%ed%b0%80x",
    "%",
    "%zz",
    "..%2f..%2fx",
    "%u0000",
    "9" * 5000,
    "0001-01-01",
    "%2D1e400",
)
BAD_HEADERS = tuple(
    name + b": " + value
    for name in (
        b"idempotency-key",
        b"prefer",
        b"last-event-id",
        b"authorization",
        b"content-type",
        b"origin",
        b"host",
        b"accept",
    )
    for value in (b"\xed\xa0\x80", b"\xff", b"a" * 70_000, b"wait=" + b"9" * 400, b"[::1", b"application/json; charset=\xff")
)
HUGE_HEADS = (b"x: " + b"a" * 70_000, b"x: " + b"a" * 200_000, b"\r\n".join([b"x: y"] * 201), b"x" * 70_000 + b": y")
FORM_CHARSETS = (b"utf-16", b"unicode_escape", b"punycode", b"undefined", b"idna", b"hex", b"\xff")
UNKNOWN = (
    ("GET", "/"),
    ("POST", "/v1"),
    ("GET", "/v1/unknown"),
    ("POST", "/v1/jobs/"),
    ("PUT", "/v1/jobs"),
    ("BREW", "/livez"),
)
IMAGE = data_url(picture(size=(56, 56)))
TEXT = {"type": "text", "text": "x"}
FUNCTION = {"name": "f", "description": "x", "parameters": {"type": "object", "properties": {"a": {"enum": ["x"]}}}}
SCHEMA = {"name": "x", "schema": {"type": "object", "properties": {"a": {"type": "string"}}}}
#: Good bodies, with every field that takes a client's text in one of them: what is beside the bad value is right.
SAMPLES: dict[str, list[dict[str, Any]]] = {
    "/v1/jobs": [
        {
            "prompt": "x",
            "images": [IMAGE],
            "model": "qwen-vl",
            "metadata": {"a": "b"},
            "webhook": {"url": "https://example.com"},
        },
        {"prompt": "x", "video": "https://example.com/a.mp4", "start_deadline_s": 1, "group": "x"},
        {
            "messages": [{"role": "user", "content": [{"type": "image", "image": IMAGE, "min_pixels": 3136}, TEXT]}],
            "sampling": {"stop": ["x"], "response_format": {"type": "json_schema", "json_schema": SCHEMA}},
        },
        {"messages": [{"role": "user", "content": [{"type": "video", "video": [IMAGE, IMAGE], "fps": 1}, TEXT]}]},
        {"prompt": "x", "images": [IMAGE], "sampling": {"response_format": {"type": "choice", "choice": ["x"]}}},
        {"prompt": "x", "images": [IMAGE], "sampling": {"response_format": {"type": "regex", "regex": "x"}}},
    ],
    "/v1/jobs/cancel": [{"filter": {"group": "x", "model": "x", "code": "x", "q": "x"}}, {"filter": {"ids": ["x"]}}],
    "/v1/jobs/retry": [
        {"filter": {"status": ["failed"], "class": "bulk", "since": "x", "until": 1, "q": "x"}, "dry_run": True}
    ],
    "/v1/groups/{group}": [{"webhook": {"url": "https://example.com"}}],
    "/v1/chat/completions": [
        {
            "model": "qwen-vl",
            "messages": [
                {"role": "user", "content": [TEXT, {"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}}]}
            ],
            "response_format": {"type": "json_schema", "json_schema": SCHEMA},
            "metadata": {"a": "b"},
            "stop": ["x"],
            "user": "x",
        },
        {
            "model": "qwen-vl",
            "messages": [
                {"role": "system", "content": "x"},
                {"role": "user", "content": "x"},
                {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "c", "content": "x"},
            ],
            "tools": [{"type": "function", "function": FUNCTION}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
        },
        {"model": "qwen-vl", "messages": [{"role": "user", "content": "x"}], "guided_choice": ["x"], "mm_processor_kwargs": {}},
        {
            "model": "qwen-vl",
            "messages": [{"role": "user", "content": "x"}],
            "structured_outputs": {"regex": "x"},
            "stream": True,
        },
    ],
    "/v1/responses": [
        {
            "model": "qwen-vl",
            "instructions": "x",
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "x"}, {"type": "input_image", "image_url": IMAGE}]}
            ],
            "text": {"format": {"type": "json_schema", **SCHEMA}},
            "metadata": {"a": "b"},
            "background": True,
        },
        {"model": "qwen-vl", "input": "x", "user": "x", "stream": True},
        {
            "model": "qwen-vl",
            "input": [
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "x"},
            ],
        },
    ],
    "/v1/batches": [
        {
            "input_file_id": "file-1",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {"a": "b"},
        }
    ],
    "/v1/keys": [{"name": "x", "max_running": 1, "weight": 2.5}],
    "/v1/webhook_endpoints": [{"url": "https://example.com", "event_types": ["job.failed"], "name": "x"}],
    "/v1/webhook_endpoints/{endpoint_id}": [{"url": "https://example.com", "event_types": ["job.failed"], "name": "x"}],
    "/v1/webhook_endpoints/{endpoint_id}/rotate_secret": [{"keep_old_secret_active_for_24_hours": True}],
    "/v1/webhook_endpoints/{endpoint_id}/test": [{"event_type": "job.failed"}],
    "/v1/webhook_endpoints/{endpoint_id}/recover": [{"since": 1}],
}
#: Names that go together in a query.
QUERIES = (
    ("after", "purpose", "wait", "limit"),
    *(
        (name,)
        for name in ("after", "status", "class", "group", "model", "code", "since", "until", "q", "ids", "starting_after")
    ),
)
#: Of a field that is not known, as it would stand in an error's text.
ODD_NAME = "\\A(\\1%s{0}"
FIELD = b'"@@"'  #: stands where a bad value goes


@dataclass(frozen=True)
class Shot:
    """One request."""

    route: str
    what: str
    data: bytes


def shots(description: dict[str, Any]) -> Iterator[Shot]:
    """Make all requests: of every operation in the description, and of paths that are not in it."""
    operations = [(method.upper(), path) for path, ways in description["paths"].items() for method in ways]
    for method, path in [*operations, *UNKNOWN]:
        requests = itertools.chain(_heads(method, path), _bodies(method, path) if method == "POST" else ())
        yield from (Shot(f"{method} {path}", what, data) for what, data in requests)


def _request(method: str, path: str, *, head: bytes = b"", body: bytes = b"", kind: bytes = b"application/json") -> bytes:
    lines = [f"{method} {_filled(path, 'job_1')} HTTP/1.1".encode(), b"connection: close", *([head] if head else [])]
    if not head.startswith(b"host:"):
        lines.append(b"host: localhost")
    if body and not head.startswith(b"content-type:"):
        lines.append(b"content-type: " + kind)
    if method in {"POST", "PUT"}:
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _filled(path: str, value: str) -> str:
    return re.sub(r"\{\w+(:path)?\}", lambda _: value, path)


def _heads(method: str, path: str) -> Iterator[tuple[str, bytes]]:
    good = json.dumps(SAMPLES.get(path, [{}])[0]).encode() if method == "POST" else b""
    for head in HUGE_HEADS:
        yield "a huge head", _request(method, path, head=head)
    for head in BAD_HEADERS:
        yield f"a header {head[:40]!r}", _request(method, path, head=head, body=good)
    for text in BAD_TEXTS:
        for names in QUERIES:
            query = "&".join(f"{name}={text}" for name in names)
            yield f"a query {names[0]} {text[:20]}", _request(method, f"{path}?{query}")
        yield f"a query {text[:20]}", _request(method, f"{path}?{text}=1")
        if "{" in path:
            yield f"a path {text[:20]}", _request(method, _filled(path, text))


def _bodies(method: str, path: str) -> Iterator[tuple[str, bytes]]:
    for body in BAD_BODIES:
        yield f"a body {body[:20]!r}", _request(method, path, body=body)
    places = [place for sample in SAMPLES.get(path, [{"a": "b"}]) for place in _places(sample)]
    for place, value in itertools.product(places, BAD_VALUES):
        yield f"{value[:20]!r} in {_around(place)!r}", _request(method, path, body=place.replace(FIELD, value))
    for charset, name in itertools.product(
        (b"", *FORM_CHARSETS), (rb"\ud800.png", b"\xed\xa0\x80", b"\xff", b"xn--a", b"\x00")
    ):
        form = b'--b\r\ncontent-disposition: form-data; name="file"; filename="' + name + b'"\r\n\r\nx\r\n--b--\r\n'
        kind = b"multipart/form-data; boundary=b" + (b"; charset=" + charset if charset else b"")
        yield f"a form {charset!r} {name!r}", _request(method, path, body=form, kind=kind)


def _places(sample: Any) -> Iterator[bytes]:
    """Give the sample once for each value in it, with a mark in the value's place, and with one more field in each object."""

    def walk(value: Any) -> Iterator[Any]:
        yield "@@"
        if isinstance(value, dict):
            yield {**value, ODD_NAME: "@@"}
            for name, part in value.items():
                yield from ({**value, name: other} for other in walk(part))
        elif isinstance(value, list):
            for n, part in enumerate(value):
                yield from ([*value[:n], other, *value[n + 1 :]] for other in walk(part))

    for other in walk(sample):
        yield json.dumps(other).encode()


def _around(place: bytes) -> bytes:
    """Give what stands around the mark."""
    at = place.index(FIELD)
    return place[max(0, at - 40) : at + 10]


async def fire(url: str, shot: Shot, *, timeout_s: float = 20) -> int:
    """Send a request and give its answer's status: 0 where the connection ended without one, -1 where none came in time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
    try:
        async with asyncio.timeout(timeout_s):
            writer.write(shot.data)
            line = await reader.readline()
            return int(line.split(b" ")[1]) if line else 0
    except TimeoutError:
        return -1
    except OSError:
        return 0
    finally:
        writer.close()


async def fire_all(url: str, *, every: int = 1, at_a_time: int = 16) -> tuple[Counter[int], list[str]]:
    """Send every n-th request.

    Returns:
        How often each status came, and what was wrong: a status of 500 and more, or no answer.
    """
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        description = (await client.get("/openapi.json")).json()
    outcomes, bad = Counter[int](), list[str]()
    slots = asyncio.Semaphore(at_a_time)

    async def one(shot: Shot) -> None:
        async with slots:
            status = await fire(url, shot)
        outcomes[status] += 1
        if not 200 <= status < 500:
            bad.append(f"{status}: {shot.route} with {shot.what}")

    await asyncio.gather(*(one(shot) for shot in itertools.islice(shots(description), 0, None, every)))
    return outcomes, bad
