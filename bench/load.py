"""A light HTTP client for benchmarks: the server is measured, so the client may cost no more than a few syscalls a request."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any, Self

import uvloop

CONNECTIONS = 16


class UnexpectedAnswer(Exception):
    """A server answered with something else than 2xx."""


def post(path: str, body: dict[str, Any], more: str = "") -> bytes:
    """Write a POST request with a JSON body, and ``more`` lines of headers."""
    content = json.dumps(body).encode()
    lines = f"POST {path} HTTP/1.1", "host: localhost", "content-type: application/json", f"content-length: {len(content)}"
    return ("\r\n".join(lines) + "\r\n" + more + "\r\n").encode() + content


def get(path: str) -> bytes:
    """Write a GET request."""
    return f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()


def fire(port: int, requests: Sequence[bytes]) -> tuple[float, list[dict[str, Any]]]:
    """Send requests to a server on this machine, :data:`CONNECTIONS` at a time.

    Returns:
        Seconds, and the JSON bodies of the answers in no order.

    Raises:
        UnexpectedAnswer: one was not 2xx.
    """
    return uvloop.run(_fire(port, requests))


async def _fire(port: int, requests: Sequence[bytes]) -> tuple[float, list[dict[str, Any]]]:
    waiting, bodies = iter(requests), list[bytes]()
    began = time.monotonic()
    await asyncio.gather(*(_talk(port, waiting, bodies) for _ in range(CONNECTIONS)))
    seconds = time.monotonic() - began
    return seconds, [json.loads(body) for body in bodies]


async def _talk(port: int, waiting: Iterator[bytes], bodies: list[bytes]) -> None:
    async with Connection(port) as connection:
        bodies += [await connection.ask(request) for request in waiting]


class Connection:
    """A connection to a server on this machine, which stays open until its ``async with`` block ends."""

    def __init__(self, port: int) -> None:
        """Remember where to."""
        self._port = port

    async def __aenter__(self) -> Self:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Close."""
        self._writer.close()
        await self._writer.wait_closed()

    async def ask(self, request: bytes) -> bytes:
        """Send a request and give the answer's body.

        Raises:
            UnexpectedAnswer: it was not 2xx.
        """
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        _, _, rest = head.partition(b"content-length: ")
        body = await self._reader.readexactly(int(rest.partition(b"\r\n")[0]))
        if head[9:10] != b"2":
            raise UnexpectedAnswer(body.decode(errors="replace"))
        return body
