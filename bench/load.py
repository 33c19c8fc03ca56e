"""A light HTTP client for benchmarks: the server is measured, so the client may cost no more than a few syscalls a request."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import uvloop

CONNECTIONS = 16


class UnexpectedAnswer(Exception):
    """A server answered with something else than 2xx."""


def post(path: str, body: dict[str, Any]) -> bytes:
    """Write a POST request with a JSON body."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    return head.encode() + content


def get(path: str) -> bytes:
    """Write a GET request."""
    return f"GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n".encode()


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
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for request in waiting:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        _, _, rest = head.partition(b"content-length: ")
        body = await reader.readexactly(int(rest.partition(b"\r\n")[0]))
        if head[9:10] != b"2":
            raise UnexpectedAnswer(body.decode(errors="replace"))
        bodies.append(body)
    writer.close()
    await writer.wait_closed()
