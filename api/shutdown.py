"""What requests that still wait get when the gateway stops: 503 `restarting`, so that their clients ask again."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.error_responses import problem
from api.open_requests import OpenRequests
from shared.errors import Restarting

#: For requests that are about to be answered, which most are; then come those that wait for something.
FINISH_S = 0.5
AGAIN_S = 1.0  #: a cancelled request that has not ended by then is cancelled once more: the Redis client can swallow one
RETRY_AFTER_S = 2  #: until another gateway, or this one, listens


class Leaving:
    """Knows the requests that have no answer yet."""

    def __init__(self) -> None:
        """Begin as a gateway that stays."""
        self.begun = False
        #: Streams, and those who wait for a job's end: they hear why.
        self.open_requests: OpenRequests | None = None
        self._unanswered = set[asyncio.Task[Any]]()
        self._ending: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """End every request: those that wait for something at once, nearly, and streams by a last event of their own."""
        self.begun = True
        self._ending = asyncio.create_task(self._end())

    async def _end(self) -> None:
        await asyncio.sleep(FINISH_S)
        if self.open_requests:
            self.open_requests.close(Restarting(retry_after_s=RETRY_AFTER_S))
        while self._unanswered:
            for task in self._unanswered:
                task.cancel()
            await asyncio.sleep(AGAIN_S)

    def add(self, task: asyncio.Task[Any]) -> None:
        """Note a request that came."""
        self._unanswered.add(task)

    def discard(self, task: asyncio.Task[Any]) -> None:
        """Note that its answer has begun, or that it has ended."""
        self._unanswered.discard(task)


class Farewell:
    """Answers the requests that are cut off because the gateway stops."""

    def __init__(self, app: ASGIApp, leaving: Leaving) -> None:
        """Stand in front of an app."""
        self._app, self._leaving = app, leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        task = asyncio.current_task()
        if scope["type"] != "http" or task is None:
            await self._app(scope, receive, send)
            return
        is_answered = False

        async def send_noted(message: Message) -> None:
            nonlocal is_answered
            if not is_answered:
                is_answered = True
                self._leaving.discard(task)
            await send(message)

        self._leaving.add(task)
        try:
            await self._app(scope, receive, send_noted)
        except asyncio.CancelledError:
            if is_answered or not self._leaving.begun:
                raise
            self._leaving.discard(task)
            task.uncancel()
            request_id = scope.get("state", {}).get("request_id")
            await problem(Restarting(retry_after_s=RETRY_AFTER_S), request_id=request_id)(scope, receive, send)
        finally:
            self._leaving.discard(task)
