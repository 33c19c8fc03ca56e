"""Bodies that come packed with gzip: unpacked piece by piece, and counted as they are then."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.error_responses import problem
from shared.errors import InvalidRequest, UnsupportedEncoding

#: Unpacked at a time: a kilobyte may hold a megabyte, and what comes behind this is measured first.
PIECE_BYTES = 256 * 1024
_GZIP = 16 + zlib.MAX_WBITS  #: what zlib calls gzip's own head and end
_CODINGS = {b"gzip", b"x-gzip"}


class PackedBody:
    """Unpacks bodies with ``content-encoding: gzip``; the limit on bodies stands behind it, and counts what was unpacked."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand in front of an app that limits its bodies."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on as if its body had come unpacked."""
        codings = [value.strip().lower() for name, value in scope.get("headers", ()) if name == b"content-encoding"]
        if codings in ([], [b"identity"], [b""]):
            await self._app(scope, receive, send)
        elif len(codings) == 1 and codings[0] in _CODINGS:
            plain = [pair for pair in scope["headers"] if pair[0] not in {b"content-encoding", b"content-length"}]
            # Its length is not known before its end, and the limit is to count.
            headers = [*plain, (b"transfer-encoding", b"chunked")]
            await self._app({**scope, "headers": headers}, _Unpacked(receive), send)
        else:
            await problem(UnsupportedEncoding())(scope, receive, send)


class _Unpacked:
    """Gives the messages of a packed body with what is in it."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._unpacker = zlib.decompressobj(_GZIP)
        self._pieces: Iterator[Message] = iter(())

    async def __call__(self) -> Message:
        while (message := next(self._pieces, None)) is None:
            packed = await self._receive()
            if packed["type"] != "http.request":
                return packed
            self._pieces = self._unpack(packed.get("body", b""), more=packed.get("more_body", False))
        return message

    def _unpack(self, data: bytes, *, more: bool) -> Iterator[Message]:
        """Unpack a piece; gzip files that follow each other are one.

        Raises:
            InvalidRequest: it is no gzip, or ends too early.
        """
        try:
            while data:
                if self._unpacker.eof:
                    self._unpacker = zlib.decompressobj(_GZIP)
                body = self._unpacker.decompress(data, PIECE_BYTES)
                data = self._unpacker.unconsumed_tail or self._unpacker.unused_data
                yield {"type": "http.request", "body": body, "more_body": True}
        except zlib.error as error:
            raise InvalidRequest("the body is no gzip, as its content-encoding says it is") from error
        if more:
            return
        if not self._unpacker.eof:
            raise InvalidRequest("the body is gzip that ends too early")
        yield {"type": "http.request", "body": b"", "more_body": False}
