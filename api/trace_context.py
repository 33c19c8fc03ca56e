"""Whose trace a request is part of, where its caller says so."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from shared.tracing import tracer


class TraceContext:
    """Makes spans and log lines of a request part of the trace that its header ``traceparent`` names, as W3C describes it."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand in front of an app."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on within its caller's trace."""
        given = [value for name, value in scope["headers"] if name == b"traceparent"] if scope["type"] == "http" else []
        with tracer().within(given[0].decode("latin-1") if len(given) == 1 else ""):
            await self._app(scope, receive, send)
