"""Large bodies one after another, so that the first of many that come at once is a job after milliseconds.

Read all together, each a piece at a time, they would all be whole at the same late moment: a GPU waits for the first of them
meanwhile, and all of them lie in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: What the server reads of each body before anybody asks for it.
FREE_BYTES = 64 * 1024
#: A body waits for those of its own size, so that one picture does not wait for a hundred films.
LANES = (512 * 1024, 4 * 1024 * 1024)
#: A turn ends after the time in which a fast gateway would have read the body (2.5 MB in 15 ms): a slow client keeps nobody
#: waiting, and many slow ones are let in as quickly as they could be served.
BYTES_A_S = 150e6


class BodyTurns:
    """Gives the bodies of requests their turns; what is refused before its body is asked for takes none."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand in front of an app."""
        self._app = app
        self._lanes = [asyncio.Semaphore() for _ in (*LANES, None)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its body when it is its turn."""
        n_bytes = _length(dict(scope.get("headers", ())))
        if n_bytes <= FREE_BYTES:
            await self._app(scope, receive, send)
            return
        turn = _Turn(receive, self._lanes[sum(n_bytes > bound for bound in LANES)], n_bytes / BYTES_A_S)
        try:
            await self._app(scope, turn, send)
        finally:
            turn.end()


def _length(headers: Mapping[bytes, bytes]) -> int:
    """Give a body's length in bytes, of one that does not tell it the shortest of the longest lane."""
    if b"transfer-encoding" in headers:
        return LANES[-1] + 1
    return int(headers.get(b"content-length", 0))


class _Turn:
    """Hands on the messages of one body, the first one when those before it in the lane are read, or have had their time."""

    def __init__(self, receive: Receive, lane: asyncio.Semaphore, most_s: float) -> None:
        self._receive, self._lane, self._most_s = receive, lane, most_s
        self._has_begun = False
        self._time_up: asyncio.TimerHandle | None = None

    async def __call__(self) -> Message:
        if not self._has_begun:
            await self._lane.acquire()
            self._has_begun = True
            self._time_up = asyncio.get_running_loop().call_later(self._most_s, self.end)
        message = await self._receive()
        if not message.get("more_body"):
            self.end()
        return message

    def end(self) -> None:
        """Let the next one read, if this one has not yet."""
        if self._time_up:
            self._time_up.cancel()
            self._time_up = None
            self._lane.release()
