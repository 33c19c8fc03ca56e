"""The input of a batch: a file of requests, read line by line, so that a batch of any length needs the memory of one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

from shared.batches import Line
from shared.blobs import Blobs, upload_name
from shared.errors import InvalidRequest, MediaUnreadable

CHATS = "/v1/chat/completions"
READ_BYTES = 2**20
MAX_LINES = 50_000  #: OpenAI's own limit
MAX_ERRORS = 20  #: shown of an input that is not valid


class BatchInput:
    """A file of requests."""

    def __init__(self, blobs: Blobs, file_id: str, *, max_line_bytes: int) -> None:
        """Read nothing yet."""
        self._blobs, self._name, self._max_line_bytes = blobs, upload_name(file_id), max_line_bytes

    async def read(self, offset: int, number: int) -> AsyncIterator[tuple[Line, bytes]]:
        """Give the lines that are not blank.

        Args:
            offset: where to begin, the start of a line.
            number: that of the line before.

        Raises:
            InvalidRequest: a line is longer than a request may be.
            MediaUnreadable: the file is no longer there.
        """
        size, at, rest = await self._blobs.size(self._name), offset, b""
        while at < size or rest:
            if at < size:
                chunk = await self._blobs.read(self._name, at, min(READ_BYTES, size - at))
                at += len(chunk)
                rest += chunk
            *whole, rest = rest.split(b"\n")
            if at >= size:
                whole, rest = [*whole, rest], b""
            elif len(rest) > self._max_line_bytes:
                raise InvalidRequest(f"line_too_long: line {number + 1} is longer than a request may be")
            for data in whole:
                if data.strip():
                    number += 1
                    yield Line(number, offset, len(data) + 1), data
                offset += len(data) + 1

    async def request(self, line: Line) -> tuple[str, dict[str, Any]]:
        """Read one line again, see :func:`parse_line`."""
        return parse_line(await self._blobs.read(self._name, line.offset, line.n_bytes), line.number)

    async def check(self) -> tuple[int, list[dict[str, Any]]]:
        """Read all of it once.

        Returns:
            How many lines it has, and what is wrong with it, as OpenAI's API tells it.
        """
        errors, seen, n_lines = list[dict[str, Any]](), set[bytes](), 0
        try:
            async for line, data in self.read(0, 0):
                n_lines = line.number
                if n_lines > MAX_LINES:
                    errors.append(_wrong(f"too_many_lines: a batch has at most {MAX_LINES} lines", n_lines))
                    break
                try:
                    custom_id, _ = parse_line(data, line.number)
                    digest = hashlib.sha256(custom_id.encode(errors="replace")).digest()[:16]
                    if digest in seen:
                        raise ValueError(f"duplicate_custom_id: line {line.number} has a custom_id that came before")  # noqa: TRY301
                    seen.add(digest)
                except ValueError as error:
                    errors.append(_wrong(str(error), line.number))
                if len(errors) >= MAX_ERRORS:
                    break
        except (MediaUnreadable, InvalidRequest) as error:
            errors.append(_wrong(error.message if ": " in error.message else f"invalid_file: {error.message}", None))
        if not n_lines and not errors:
            errors.append(_wrong("empty_file: the input has no lines", None))
        return n_lines, errors


def _wrong(told: str, line: int | None) -> dict[str, Any]:
    code, _, message = told.partition(": ")
    return {"code": code, "message": message, "line": line, "param": None}


def parse_line(data: bytes, number: int) -> tuple[str, dict[str, Any]]:
    """Read a line of the input.

    Returns:
        Its custom_id and the body of its request.

    Raises:
        ValueError: what is wrong with it, as ``code: message``.
    """
    try:
        line = json.loads(data)
    except ValueError as error:
        raise ValueError(f"invalid_json_line: line {number} is no JSON") from error
    wanted = {"custom_id": str, "method": str, "url": str, "body": dict}
    if not isinstance(line, dict) or not all(isinstance(line.get(name), kind) for name, kind in wanted.items()):
        raise ValueError(f"invalid_request: line {number} needs custom_id, method, url and body")
    if line["method"] != "POST" or line["url"] != CHATS:
        raise ValueError(f"invalid_url: line {number} asks {line['method']} {line['url'][:80]}; a line asks POST {CHATS}")
    return line["custom_id"], line["body"]
