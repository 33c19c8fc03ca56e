"""What a request is aimed at, put into the one form that the routes know.

Base addresses end in a slash or do not, proxies keep their prefix or cut it off, and probes ask with HEAD: all of them mean a
route that is there.
"""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.detached import keep

_SLASHES = re.compile("//+")


class Target:
    """Takes doubled and trailing slashes and the proxy's prefix off a path, and answers HEAD wherever GET is answered."""

    def __init__(self, app: ASGIApp, root_path: str = "") -> None:
        """Stand in front of an app.

        Args:
            app: which knows its paths without a prefix.
            root_path: the prefix under which a proxy shows the gateway, such as ``/vision``.
        """
        self._app, self._root_path = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on under its plain path."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = _SLASHES.sub("/", scope["path"])
        if self._root_path and (path + "/").startswith(self._root_path + "/"):
            path = path.removeprefix(self._root_path)
        path = path.rstrip("/") or "/"
        if scope["method"] == "HEAD":
            await self._answer_head({**scope, "path": path, "method": "GET"}, receive, send)
        else:
            await self._app(scope if path == scope["path"] else {**scope, "path": path}, receive, send)

    async def _answer_head(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as to GET; the server leaves the body out. To a stream, the client counts as gone when its head was sent."""
        is_answered = False
        keep(scope)

        async def receive_until_head() -> Message:
            return {"type": "http.disconnect"} if is_answered else await receive()

        async def send_head(message: Message) -> None:
            nonlocal is_answered
            is_answered = True
            await send(message)

        await self._app(scope, receive_until_head, send_head)
