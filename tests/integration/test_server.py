"""The gateway's HTTP server: what one connection may send, how long it may take, who may ask, and how it stops."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

import api.server
from api.main import create_app
from api.server import MAX_HEAD_BYTES, MAX_HEADERS, raise_file_limit
from shared.settings import Settings
from tests.integration.conftest import gateway_for
from tests.integration.served import served
from tests.media import picture

HEAD = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n"
POST = b"POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


@dataclass(frozen=True)
class Answer:
    """What came back over a connection until it ended."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The error's code, of an answer in the one shape."""
        assert self.headers["content-type"] == "application/problem+json"
        assert self.headers["x-request-id"].startswith("req_")
        return str(json.loads(self.body)["error"]["code"])


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
    async with asyncio.timeout(60):
        try:
            yield reader, writer
        finally:
            writer.close()


def parse(data: bytes) -> Answer:
    head, _, body = data.partition(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    return Answer(int(line.split(" ")[1]), dict(header.split(": ", 1) for header in headers), body)


async def ask(url: str, data: bytes) -> Answer:
    """Send bytes, and read until the gateway closes."""
    async with connected(url) as (reader, writer):
        writer.write(data)
        return parse(await reader.read())


async def pour(writer: asyncio.StreamWriter, data: bytes, *, every_s: float = 0.0) -> int:
    """Send the same again and again until that fails; gives how many bytes the gateway, or the system, took."""
    sent = 0
    try:
        while True:
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(every_s)
            sent += len(data)
    except OSError:
        return sent


# --- heads ---


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"x-a: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n",
        HEAD + b"x: y\r\n" * MAX_HEADERS + b"\r\n",
        b"GET /livez?" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
        HEAD + b"x-" + b"a" * MAX_HEAD_BYTES + b": y\r\n\r\n",
        POST + b"transfer-encoding: chunked\r\n\r\n1;" + b"a" * 200_000,
        POST + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nx-trailer: " + b"a" * 200_000,
    ],
    ids=["a long value", "many", "a long line", "a long name", "a chunk's extension", "a trailer"],
)
async def test_headers_that_are_too_many_or_too_long_are_refused(url: str, data: bytes) -> None:
    answer = await ask(url, data)

    assert (answer.status, answer.code, answer.headers["connection"]) == (431, "headers_too_large", "close")


async def test_headers_within_the_bounds_are_taken(url: str) -> None:
    headers = {"x-a": "a" * (MAX_HEAD_BYTES - 500)} | {f"x-{n}": "y" for n in range(20)}
    many = {f"x-{n}": "y" for n in range(MAX_HEADERS - 10)}
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        for given in (headers, many, headers):
            assert (await client.get("/livez", headers=given)).status_code == 200


async def test_a_header_that_does_not_end_is_cut_off(url: str) -> None:
    """150 MB of one were read before, while everybody else waited."""
    own = socket.create_connection(("127.0.0.1", httpx.URL(url).port))
    own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16)  # else this side's system takes 4 MB, whoever reads them
    _, writer = await asyncio.open_connection(sock=own)
    writer.write(HEAD + b"x-a: ")

    async with asyncio.timeout(60):
        sent = await pour(writer, b"a" * 2**16)

    writer.close()
    assert sent < 2 * 2**20  # what the system's own buffers hold


def test_segments_are_small_so_that_a_client_hears_of_a_refusal_before_its_system_took_megabytes(url: str) -> None:
    """Loopback offers 64 kB, and a system takes thirty of them of a sender whom nobody reads."""
    with socket.create_connection(("127.0.0.1", httpx.URL(url).port)) as client:
        assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) <= 4096


async def test_many_requests_on_one_connection_are_no_long_header(url: str) -> None:
    one = HEAD + b"\r\n"
    n = 3 * MAX_HEAD_BYTES // 2 // len(one)

    answer = await ask(url, one * n + HEAD + b"connection: close\r\n\r\n")

    assert answer.body.count(b"HTTP/1.1 200 OK") == n  # and the first one's line


async def test_what_is_no_http_is_told_in_the_one_shape(url: str) -> None:
    for data in (
        b"\x16\x03\x01\x02\x00hello\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: localhost\r\n\r\n",
        HEAD + b"x: a\0b\r\n\r\n",
    ):
        answer = await ask(url, data)
        assert (answer.status, answer.code) == (400, "invalid_request")


# --- time ---


async def test_headers_that_do_not_come_are_given_up(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.server, "HEAD_TIMEOUT_S", 0.2)
    async with connected(url) as (reader, writer):
        for letter in (b"G", b"E", b"T"):
            writer.write(letter)
            await asyncio.sleep(0.1)
        slow = parse(await reader.read())
    async with connected(url) as (reader, _):
        silent = await reader.read()

    assert (slow.status, slow.code, slow.headers["connection"]) == (408, "request_timeout", "close")
    assert silent == b""


async def test_a_later_head_is_waited_for_as_the_first_one(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.server, "HEAD_TIMEOUT_S", 0.2)
    async with connected(url) as (reader, writer):
        writer.write(HEAD + b"\r\n" + HEAD)
        first = await reader.readuntil(b'{"status":"ok"}')
        second = parse(await reader.read())

    assert first.startswith(b"HTTP/1.1 200")
    assert second.code == "request_timeout"


async def test_a_body_that_stalls_is_given_up_and_one_that_drips_is_not(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEAD_TIMEOUT_S", "BODY_STALL_S"):
        monkeypatch.setattr(api.server, name, 0.3)
    form = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + picture() + b"\r\n--b--\r\n"
    upload = (
        b"POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-type: multipart/form-data; boundary=b\r\nconnection: close\r\n"
    )

    async def drip(until: int) -> Answer:
        async with connected(url) as (reader, writer):
            writer.write(upload + b"content-length: %d\r\n\r\n" % len(form))
            for n in range(until):
                writer.write(form[n * len(form) // 10 : (n + 1) * len(form) // 10])
                await asyncio.sleep(0.1)
            return parse(await reader.read())

    whole, part = await asyncio.gather(drip(10), drip(5))

    assert whole.status == 201
    assert (part.status, part.code) == (408, "request_timeout")


async def test_a_body_that_drips_for_ever_is_given_up(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte was time for another before: 16,000 connections with a byte now and then kept everybody out."""
    for name in ("HEAD_TIMEOUT_S", "BODY_TIME_S"):
        monkeypatch.setattr(api.server, name, 0.3)
    async with connected(url) as (reader, writer):
        writer.write(POST + b"content-length: 1000000\r\n\r\n")
        dripping = asyncio.create_task(pour(writer, b"a", every_s=0.02))
        answer = parse(await reader.read())
        await dripping

    assert (answer.status, answer.code) == (408, "request_timeout")


async def test_a_body_that_goes_on_after_its_answer_is_cut_off(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.server, "HEAD_TIMEOUT_S", 0.2)
    async with connected(url) as (reader, writer):
        writer.write(POST + b"content-length: 99999999999\r\n\r\n")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 413 ")
        await pour(writer, b"a" * 1000, every_s=0.02)  # it ends


# --- connections ---


async def test_connections_beyond_the_bound_are_told_so(settings: Settings) -> None:
    few = settings.model_copy(update={"max_connections": 3})
    async with served(few) as url:
        held = [await asyncio.open_connection("127.0.0.1", httpx.URL(url).port) for _ in range(3)]
        await asyncio.sleep(0.05)
        refused = await ask(url, HEAD + b"\r\n")
        for _, writer in held:
            writer.close()
        await asyncio.sleep(0.05)
        taken = await ask(url, HEAD + b"connection: close\r\n\r\n")

    assert (refused.status, refused.code, refused.headers["retry-after"]) == (503, "too_many_connections", "5")
    assert taken.status == 200


def test_a_process_gets_as_many_files_as_its_connections_need() -> None:
    assert raise_file_limit(100) == 100
    assert raise_file_limit(10**9) < 10**9


async def test_a_connection_ends_with_an_error_of_the_gateway(settings: Settings) -> None:
    app = create_app(settings)

    @app.get("/crash")
    async def crash() -> None:
        raise ZeroDivisionError

    async with served(settings, app) as url:
        answer = await ask(url, HEAD.replace(b"/livez", b"/crash") + b"\r\n")

    assert (answer.status, answer.code, answer.headers["connection"]) == (500, "internal", "close")


# --- browsers ---


async def test_a_gateway_without_keys_answers_to_this_machine_only(settings: Settings) -> None:
    """A page whose name its owner lets point to 127.0.0.1 could use the gateway through its reader's browser."""
    named = settings.model_copy(update={"trusted_hosts": ("gpu.example.org",)})
    async with gateway_for(named) as gateway:
        for host in ("localhost", "LOCALHOST:9", "127.0.0.1:8000", "127.0.0.2", "[::1]:8000", "gpu.example.org", "localhost."):
            assert (await gateway.get("/v1/jobs", headers={"host": host})).status_code == 200, host
        for host in (
            "evil.example",
            "evil.example:8000",
            "localhost.evil.example",
            "10.0.0.1",
            "0.0.0.0",
            "[::2]",
            "[",
            "a@localhost",
        ):
            answer = await gateway.get("/v1/jobs", headers={"host": host})
            assert (answer.status_code, answer.json()["error"]["code"]) == (421, "foreign_host"), host


async def test_a_gateway_in_a_container_answers_to_the_names_that_it_is_given(settings: Settings) -> None:
    inside = {"host": "0.0.0.0", "require_keys": False, "trusted_hosts": ("api",)}
    async with gateway_for(settings.model_copy(update=inside)) as gateway:
        codes = {
            host: (await gateway.get("/livez", headers={"host": host})).status_code for host in ("api:8000", "evil.example")
        }

    assert codes == {"api:8000": 200, "evil.example": 421}


@pytest.mark.parametrize("given", [{"host": "0.0.0.0"}, {"require_keys": True}, {"host": "0.0.0.0", "require_keys": False}])
async def test_a_gateway_for_others_answers_to_every_host(settings: Settings, given: dict[str, Any]) -> None:
    async with gateway_for(settings.model_copy(update=given)) as gateway:
        assert (await gateway.get("/livez", headers={"host": "gpu.example.org"})).status_code == 200


FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "https://evil.example", "content-type": FORM},
        {"origin": "null", "content-type": "multipart/form-data; boundary=b"},
        {"origin": "http://localhost.evil.example:8000", "content-type": "Text/Plain; charset=utf-8"},
        {"sec-fetch-site": "cross-site", "content-type": FORM},
    ],
)
async def test_a_form_of_another_site_is_refused(settings: Settings, headers: dict[str, str]) -> None:
    async with gateway_for(settings) as gateway:
        answer = await gateway.post("/v1/jobs/job_1/cancel", headers=headers)

    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "cross_site")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": FORM},
        {"origin": "http://localhost:3000", "content-type": FORM},
        {"origin": "http://[::1]:3000", "sec-fetch-site": "same-site"},
        {"sec-fetch-site": "same-origin", "content-type": "text/plain"},
        {"sec-fetch-site": "none"},
        {"origin": "https://app.example", "content-type": "application/json"},  # a browser asks first, and is told no
    ],
)
async def test_everybody_else_is_not(settings: Settings, headers: dict[str, str]) -> None:
    async with gateway_for(settings) as gateway:
        assert (await gateway.post("/v1/jobs/job_1/cancel", headers=headers)).status_code == 404


async def test_a_page_of_the_gateways_own_name_may_post(settings: Settings) -> None:
    async with gateway_for(settings.model_copy(update={"host": "0.0.0.0", "require_keys": False})) as gateway:
        own = {"host": "gpu.example.org:8000", "origin": "http://gpu.example.org:8000"}
        assert (await gateway.post("/v1/jobs/job_1/cancel", headers=own)).status_code == 404
        assert (await gateway.post("/v1/jobs/job_1/cancel", headers=own | {"origin": "http://x.org"})).status_code == 403
