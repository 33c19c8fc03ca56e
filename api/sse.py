"""Server-sent events: how they are written, and the answer that consists of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.detached import detach
from api.open_requests import OpenRequests, hung_up
from shared.errors import SightlineError

HEARTBEAT_S = 15  #: proxies cut connections that are silent for a minute
SEND_TIMEOUT_S = 30  #: a reader that takes nothing for so long is cut off; it may come back where it was

#: Of a route that answers with JSON or, where that is asked for, with events; for the description.
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
}
_HEADERS = Headers(
    {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store", "x-accel-buffering": "no"}
).raw
_HEARTBEAT = b": alive\n\n"  # a comment, which readers skip


def written(data: Any, *, event: str | None = None, event_id: str | None = None, retry_ms: int | None = None) -> bytes:
    """Write an event; data that is no string as JSON, which has no line breaks."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    fields = (("id", event_id), ("event", event), ("retry", retry_ms), ("data", text))
    return "".join(f"{name}: {value}\n" for name, value in fields if value is not None).encode() + b"\n"


class EventStream(Response):
    """Answers with events as they come, until there are no more, the reader hangs up, or the request has to end early."""

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes],
        open_requests: OpenRequests,
        *,
        owner: str,
        farewell: Callable[[SightlineError], bytes],
    ) -> None:
        """Make the answer.

        Args:
            events: as :func:`written`; it is closed when the stream ends, however it ends.
            open_requests: where the stream is counted, and hears that it has to end.
            owner: whose request it is.
            farewell: writes the last event of a stream that has to end early, so that it does not look whole.
        """
        self.status_code, self.background = 200, None
        self.raw_headers = list(_HEADERS)
        self._events, self._requests, self._owner, self._farewell = events, open_requests, owner, farewell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the head, and the events once the request's handlers are out of the way."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if not detach(scope, self._stream):
            await self._stream(receive, send)

    async def _stream(self, receive: Receive, send: Send) -> None:
        """Send the events, with a heartbeat while there are none.

        Nothing is awaited once the reader has left, which a cancellation could cut off.
        """
        with self._requests.opened(self._owner) as early_end:
            sending = asyncio.create_task(self._send_events(send, early_end))
            early_end.add_done_callback(end := lambda _: sending.cancel())
            try:
                await asyncio.sleep(0)  # it begins: only then does it clean up when it is cancelled
                while not await _is_over(receive):
                    if sending.done():
                        sending.result()  # it failed: raise its error
                    await _send(send, _HEARTBEAT)
            finally:
                sending.cancel()
                early_end.remove_done_callback(end)  # else the two hold each other, and wait for the garbage collector

    async def _send_events(self, send: Send, early_end: asyncio.Future[SightlineError]) -> None:
        try:
            async with aclosing(self._events) as events:
                async for event in events:
                    await _send(send, event)
        except asyncio.CancelledError:
            if not early_end.done() or early_end.cancelled():
                raise
            await _send(send, self._farewell(early_end.result()))
        await _send(send, b"", more=False)


async def _is_over(receive: Receive) -> bool:
    """Tell whether the stream has ended or its reader hung up, once that is so or a heartbeat is due."""
    try:
        async with asyncio.timeout(HEARTBEAT_S):
            await hung_up(receive)
    except TimeoutError:
        return False
    return True


async def _send(send: Send, body: bytes, *, more: bool = True) -> None:
    async with asyncio.timeout(SEND_TIMEOUT_S):
        await send({"type": "http.response.body", "body": body, "more_body": more})
