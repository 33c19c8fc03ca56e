"""Requests as the gateway reads them: strictly, and in any encoding that clients send."""

from __future__ import annotations

import re
import tempfile
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Scope

from api.json_body import read_json
from shared.errors import InvalidRequest, UnsupportedParameter
from shared.storage_errors import storage_error

_TYPE, _AS_IT_IS = b"content-type", (b"content-type", b"application/json")
#: What clients say who say nothing.
_UNTYPED = frozenset({b"", b"application/x-www-form-urlencoded", b"application/octet-stream"})
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
#: The form's part that is a file, whether or not it has a name.
FILE_FIELD = b"file"
_ESCAPES = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A"})  #: as browsers write them in a name
_LONG_NAME = re.compile(rb"filename\*=utf-8'[^']*'([^;\s]+)", re.IGNORECASE)


class CheckedRequest(Request):
    """A request whose text can be written again wherever it goes: each part of it is read strictly, or refused with a 400."""

    async def json(self) -> Any:
        """Read the body as JSON, see :func:`api.json_body.read_json`."""
        return read_json(await self.body())

    async def form(self, **_: Any) -> Any:  # type: ignore[override]  # FastAPI only awaits it
        """Read one file and some fields of 64 kB, no more: each part of a form is buffered.

        Raises:
            InvalidRequest: the form is in another encoding than UTF-8; Python knows some that make half characters.
            StorageFull, StorageUnavailable: of the temporary folder, where a file of more than 1 MB lies until it has arrived.
        """
        kind, options = parse_options_header(self.headers.get("content-type"))
        if options.get(b"charset", b"utf-8").lower() not in {b"utf-8", b"utf8", b"us-ascii"}:
            raise InvalidRequest("a form is read as UTF-8; leave the charset out of its content-type")
        try:
            if self._form is None and kind == b"multipart/form-data":
                parser = _FormParser(self.headers, self.stream(), max_files=1, max_fields=16, max_part_size=64 * 1024)
                self._form = await parser.parse()
            return await super().form(max_files=1, max_fields=16, max_part_size=64 * 1024)
        except MultiPartException as error:
            raise InvalidRequest(f"the form cannot be read: {error.message}") from error
        except OSError as error:
            raise storage_error(error, tempfile.tempdir or "the temporary folder") from error

    def check_query(self, known: frozenset[str]) -> None:
        """Look for wishes in the query that the route does not know: an answer that passes one over is a wrong one.

        Raises:
            UnsupportedParameter: one of them, by its name, and what there is.
        """
        for name in self.query_params if self.scope["query_string"] else ():
            if name not in known:
                there = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
                msg = f"{self.scope['path'][:100]} has no query parameter {name[:100]!a}; {there}"
                raise UnsupportedParameter(msg, param=name[:100])

    def check_target(self) -> None:
        """Look at the path and the query.

        Raises:
            InvalidRequest: what stands in them is no UTF-8, or holds NUL.
        """
        target = self.scope.get("raw_path", b"") + b"?" + self.scope["query_string"]
        if b"%" not in target:
            return
        try:
            text = unquote_to_bytes(target).decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest("the address holds bytes that are not UTF-8") from error
        if "\0" in text:
            raise InvalidRequest("the address holds the character NUL")


class _FormParser(MultiPartParser):
    """Takes a file without a name for one, too; Starlette would call it a field, which may have 64 kB."""

    def on_headers_finished(self) -> None:
        """Begin a part."""
        given = self._current_part.content_disposition or b""
        options = parse_options_header(given)[1]
        if options.get(b"name") == FILE_FIELD and b"filename" not in options:
            found = _LONG_NAME.search(given)  # as RFC 5987 has it; Java's and .NET's clients send nothing else
            name = unquote(found.group(1).decode("latin-1")).translate(_ESCAPES) if found else ""
            self._current_part.content_disposition = given + b'; filename="%b"' % name.encode()
        super().on_headers_finished()


def as_json(scope: Scope) -> Scope:
    """Read a body as JSON also where it has no type, or `curl -d` calls it a form.

    What a page of another site may send without being asked stays outside, see :mod:`api.cross_site`.

    Raises:
        InvalidRequest: it is of another type.
    """
    headers = scope["headers"]
    if scope["method"] not in _WITH_BODY or _AS_IT_IS in headers:
        return scope
    kind = b"".join(value for name, value in headers if name == _TYPE).partition(b";")[0].strip().lower()
    if kind.startswith(b"multipart/"):
        return scope
    if kind not in _UNTYPED and not kind.endswith((b"/json", b"+json")):
        raise InvalidRequest(
            f"the body is of type {kind.decode('latin-1')[:100]!a}; send JSON, with content-type: application/json"
        )
    if kind and not kind.endswith(b"json"):
        scope["state"]["body_note"] = f"the body was read as JSON, though its content-type is {kind.decode('latin-1')}"
    return {**scope, "headers": [*(pair for pair in headers if pair[0] != _TYPE), _AS_IT_IS]}
