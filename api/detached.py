"""Lets a stream go on outside of what made it: a dozen middlewares and FastAPI's route hold 8 kB for each reader."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Receive, Scope, Send

#: What is left to do for an answer, with the server's own ends of the connection.
Rest = Callable[[Receive, Send], Awaitable[None]]
_KEY = "rest"


def detach(scope: Scope, rest: Rest) -> bool:
    """Have the rest of an answer done once its request's handlers have returned; False where nobody is there to do it.

    Args:
        scope: of the request. The answer's head has been sent: handlers add to it, and to nothing else.
        rest: sends the body, to its end.
    """
    left: list[Rest] | None = scope.get("state", {}).get(_KEY)
    if left is not None:
        left.append(rest)
    return left is not None


def keep(scope: Scope) -> None:
    """Have the whole of an answer done by its request's handlers, one of which speaks for the client."""
    scope.get("state", {}).pop(_KEY, None)


class Detached:
    """Stands outside of everything, and does what answers have left."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand in front of an app."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have a request answered, then do the rest."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        left: list[Rest] = []
        scope.setdefault("state", {})[_KEY] = left
        given = set(scope)
        await self._app(scope, receive, send)
        for rest in left:
            for name in scope.keys() - given:  # the server keeps the scope, and FastAPI in it the request and its exit stacks
                del scope[name]
            scope["state"].clear()
            await rest(receive, send)
