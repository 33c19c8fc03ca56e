"""Readers who leave: every request that stays open, and every way of being gone before its end."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from contextlib import suppress

_CHAT = {"model": "qwen-vl", "messages": [{"role": "user", "content": "What?"}]}
_RESPONSE = {"model": "qwen-vl", "input": "What?"}
_JOB = {"prompt": "What?", "images": ["https://example.com/a.png"]}
#: Every request that stays open: method, path and body. JOB in a path is a job that waits, RESP its response.
KINDS: dict[str, tuple[str, str, object]] = {
    "events of a job": ("GET", "/v1/jobs/JOB/events", None),
    "all events": ("GET", "/v1/events", None),
    "long poll": ("GET", "/v1/jobs/JOB?wait=60", None),
    "long poll at submit": ("POST", "/v1/jobs", _JOB),
    "chat": ("POST", "/v1/chat/completions", _CHAT),
    "stream of a chat": ("POST", "/v1/chat/completions", _CHAT | {"stream": True}),
    "response": ("POST", "/v1/responses", _RESPONSE),
    "stream of a response": ("POST", "/v1/responses", _RESPONSE | {"stream": True}),
    "stream of a response that is read": ("GET", "/v1/responses/RESP?stream=true", None),
}
STREAMS = {name for name in KINDS if "stream" in name or "events" in name}
#: How a reader leaves: at once, when it has the headers or some events, with a reset, or with only its own half closed.
WAYS = ("at once", "after headers", "in the middle", "reset", "half closed")


def request_of(kind: str, ids: dict[str, str], *, key: str = "none") -> bytes:
    """Write a request of a kind."""
    method, path, body = KINDS[kind]
    for name, value in ids.items():
        path = path.replace(name, value)
    content = json.dumps(body).encode() if body else b""
    about = f"content-type: application/json\r\ncontent-length: {len(content)}\r\n" if body else ""
    return (
        f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nprefer: wait=60\r\nauthorization: Bearer {key}\r\n{about}\r\n".encode()
        + content
    )


async def leave(address: tuple[str, int], request: bytes, way: str, *, is_stream: bool) -> None:
    """Ask, and be gone before there is an answer, or all of it."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(request)
    await writer.drain()
    if way == "reset":
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if way in {"after headers", "reset"} and is_stream:
        await reader.readuntil(b"\r\n\r\n")
    elif way == "in the middle" and is_stream:
        await reader.readuntil(b"data:")
    elif way != "at once":
        await asyncio.sleep(0.02)
    if way == "half closed":
        writer.write_eof()
        with suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 10)
    writer.close()
