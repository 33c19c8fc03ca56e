"""The input of a batch: a file of requests, read line by line, so that a batch of any length needs the memory of one."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple

from api.batches.storage import Storage
from api.json_body import read_json
from shared.blobs import Blobs, upload_name
from shared.errors import InvalidRequest, MediaUnreadable
from shared.store.batch_leases import Line

CHATS = "/v1/chat/completions"
READ_BYTES = 2**20
MAX_LINES = 50_000  #: OpenAI's own limit
MAX_ERRORS = 20  #: shown of an input that is not valid
MAX_CUSTOM_ID = 512  #: characters; Redis holds those of all lines in flight


class BadInput(Exception):
    """The input cannot be read; ``errors`` say why, as OpenAI's API tells it."""

    def __init__(self, *errors: dict[str, Any]) -> None:
        """Hold what is wrong."""
        super().__init__(errors)
        self.errors = list(errors)


class BatchInput:
    """A file of requests."""

    def __init__(self, blobs: Blobs, storage: Storage, file_id: str, *, max_line_bytes: int) -> None:
        """Read nothing yet."""
        self._blobs, self._storage, self._name, self._max_line_bytes = blobs, storage, upload_name(file_id), max_line_bytes

    async def read(self, offset: int, number: int) -> AsyncGenerator[tuple[Line, bytes]]:
        """Give the lines that are not blank.

        Args:
            offset: where to begin, the start of a line.
            number: that of the line before.

        Raises:
            BadInput: a line is longer than a request may be, or the file is no longer there.
        """
        at, rest = offset, b""
        try:
            size = await self._storage.ask(lambda: self._blobs.size(self._name))
            while at < size or rest:
                if at < size:
                    chunk = await self._read(at, min(READ_BYTES, size - at))
                    at += len(chunk)
                    rest += chunk
                *whole, rest = rest.split(b"\n")
                if at >= size:
                    whole, rest = [*whole, rest], b""
                elif len(rest) > self._max_line_bytes:
                    msg = f"line {number + 1} is longer than the {self._max_line_bytes} bytes that a request may have"
                    raise BadInput(_wrong("line_too_long", msg, number + 1))
                for data in whole:
                    if data.strip():
                        number += 1
                        yield Line(number, offset, len(data) + 1), data
                    offset += len(data) + 1
        except MediaUnreadable as error:
            msg = f"the input file is no longer there; what comes after line {number} was not begun"
            raise BadInput(_wrong("input_file_gone", msg, None)) from error

    async def _read(self, start: int, n_bytes: int) -> bytes:
        return await self._storage.ask(lambda: self._blobs.read(self._name, start, n_bytes))

    async def request(self, line: Line) -> Request:
        """Read one line again.

        Raises:
            MediaUnreadable: the file is no longer there.
        """
        return parse_line(await self._read(line.offset, line.n_bytes), line.number)

    async def check(self) -> int:
        """Read all of it once, and count its lines.

        Raises:
            BadInput: with everything that is wrong with it, as far as it is shown.
        """
        errors, seen, n_lines = list[dict[str, Any]](), set[bytes](), 0
        async for line, data in self.read(0, 0):
            n_lines = line.number
            if n_lines > MAX_LINES:
                errors.append(_wrong("too_many_lines", f"a batch has at most {MAX_LINES} lines", n_lines))
                break
            try:
                digest = hashlib.sha256(parse_line(data, line.number).custom_id.encode()).digest()[:16]
                if digest in seen:
                    msg = f"line {line.number} has a custom_id that came before"
                    raise BadInput(_wrong("duplicate_custom_id", msg, line.number))  # noqa: TRY301  # one of many
                seen.add(digest)
            except BadInput as error:
                errors += error.errors
            if len(errors) >= MAX_ERRORS:
                break
        if not n_lines:
            errors.append(_wrong("empty_file", "the input has no lines", None))
        if errors:
            raise BadInput(*errors)
        return n_lines


def _wrong(code: str, message: str, line: int | None) -> dict[str, Any]:
    return {"code": code, "message": message, "line": line, "param": None}


class Request(NamedTuple):
    """What a line asks."""

    custom_id: str
    body: dict[str, Any]


def parse_line(data: bytes, number: int) -> Request:
    """Read a line of the input.

    Raises:
        BadInput: what is wrong with it.
    """

    def wrong(code: str, problem: str) -> BadInput:
        return BadInput(_wrong(code, f"line {number} {problem}", number))

    try:
        line = read_json(data)
    except InvalidRequest as error:
        raise wrong("invalid_json_line", f"cannot be read: {error.message}") from error
    wanted = {"custom_id": str, "method": str, "url": str, "body": dict}
    if not isinstance(line, dict) or not all(isinstance(line.get(name), kind) for name, kind in wanted.items()):
        raise wrong("invalid_request", "needs custom_id, method, url and body")
    if len(line["custom_id"]) > MAX_CUSTOM_ID:
        raise wrong("invalid_request", f"has a custom_id of {len(line['custom_id'])} characters; it may have {MAX_CUSTOM_ID}")
    if line["method"] != "POST" or line["url"] != CHATS:
        raise wrong("invalid_url", f"asks {line['method'][:20]} {line['url'][:80]}; a line asks POST {CHATS}")
    return Request(line["custom_id"], line["body"])
