"""What one gateway answered, for Prometheus; see :mod:`shared.process_metrics`."""

from __future__ import annotations

import time
from typing import Any

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.process_metrics import SECONDS

REQUESTS = Counter(
    "sightline_http_requests", "Requests that were answered, by the route's pattern.", ["method", "route", "status"]
)
HEAD_SECONDS = Histogram(
    "sightline_http_head_seconds", "Until an answer began; long polls and chats wait for their job.", ["route"], buckets=SECONDS
)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class HttpMetrics:
    """Counts requests. It stands inside of all that changes what they are aimed at, where their route is known afterwards."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand in front of an app."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                _count(scope, message["status"], time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, send_counted)


def _count(scope: Scope, status: int, seconds: float) -> None:
    route: Any = scope.get("route")
    # Never the path itself: it holds ids, and whatever strangers make up.
    pattern = getattr(route, "path", "none")
    REQUESTS.labels(scope["method"] if scope["method"] in METHODS else "other", pattern, status).inc()
    HEAD_SECONDS.labels(pattern).observe(seconds)
