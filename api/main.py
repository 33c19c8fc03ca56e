"""The gateway's process: ``python -m api.main``."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import cache, partial
from typing import Any

import structlog
from fastapi import APIRouter, FastAPI
from prometheus_client import REGISTRY
from redis.exceptions import RedisError
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import VERSION, admin_keys, events, files, groups, health, jobs, many_jobs, usage, webhooks, workers
from api.about import make_root
from api.body_turns import BodyTurns
from api.cross_site import BrowserGate
from api.error_responses import DESCRIBED, install_handlers, problem
from api.garbage_collection import collect_young, give_back, rarely_collect
from api.gzip_body import PackedBody
from api.http_metrics import HttpMetrics
from api.intake import too_long
from api.key_metrics import KeyMetrics
from api.openai import batches, responses
from api.openai import chat as openai
from api.openapi_route import add_description
from api.openapi_schema import contract
from api.page.routes import make_page
from api.request_path import Target
from api.server import make_server, raise_file_limit
from api.services import make_services
from api.shutdown import Farewell, Leaving
from api.trace_context import TraceContext
from shared.aio import Chores
from shared.errors import BodyTooLarge, StoreUnsafe
from shared.logs import start_part
from shared.settings import Settings
from shared.store.check import StoreCheck
from shared.store.connection import SETTLE_S, connect
from shared.store.ids import new_id
from shared.store.jobs import JobStore
from shared.tracing import tracer

log = structlog.get_logger()

#: How long after its deadline a late job ends at most.
OVERDUE_EVERY_S = 1.0
_LEFT = [f"x-ratelimit-remaining-{what}" for what in ("requests", "jobs-day", "vision-tokens-day")]
#: Whatever a page of an allowed origin asks, with whatever headers; cookies mean nothing here.
CORS: dict[str, Any] = {
    "allow_methods": ["GET", "POST", "PUT", "PATCH", "DELETE"],
    "allow_headers": ["*"],
    "expose_headers": ["location", "retry-after", "x-request-id", "x-should-retry", *_LEFT],
    "allow_private_network": True,  # a public page may use a gateway on its reader's machine, where the settings name it
}
#: What a multipart envelope adds to the file in it.
ENVELOPE_BYTES = 64 * 1024


def create_app(settings: Settings) -> FastAPI:
    """Make the gateway.

    Args:
        settings: where Redis and the blobs are, and the limits.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        redis = connect(settings)
        app.state.services = services = make_services(settings, redis)
        app.state.leaving.open_requests = services.open_requests
        chores: Chores = app.state.chores
        chores.begin("check of Redis", partial(_refuse_unsafe, services.check), endless=False)
        chores.begin("late jobs", partial(_fail_overdue, services.store))
        chores.begin("clock", services.clock.keep)
        chores.begin("presence", services.presence.keep)
        chores.begin("pulse", services.pulse.beat)
        chores.begin("young objects", collect_young)
        chores.begin("memory", partial(give_back, services.open_requests))
        if settings.keys_required:
            chores.begin("revoked keys", services.open_requests.watch_keys)
        yield
        await chores.cancel()
        await services.background.settle(SETTLE_S)
        await services.presence.leave()
        await redis.aclose()

    about: dict[str, Any] = {"title": "Sightline", "version": VERSION, "servers": [{"url": settings.root_path or "/"}]}
    app = FastAPI(
        **about, routes=_api_routes(), lifespan=lifespan, openapi_url=None, redirect_slashes=False, responses=DESCRIBED
    )
    make_front = make_page if settings.page else make_root
    app.include_router(make_front(settings, app.version))
    install_handlers(app)
    written = app.openapi
    app.openapi = cache(lambda: contract(app, written(), keys_required=settings.keys_required))  # type: ignore[method-assign]
    add_description(app)
    app.state.leaving, app.state.chores = Leaving(), Chores()
    if settings.metrics_port:
        app.add_middleware(HttpMetrics)
    app.add_middleware(BodyLimit, settings=settings)
    app.add_middleware(PackedBody)
    app.add_middleware(BodyTurns)
    app.add_middleware(Target, root_path=settings.root_path)
    app.add_middleware(BrowserGate, settings=settings)
    if settings.allow_origins:
        app.add_middleware(CORSMiddleware, allow_origins=settings.allow_origins, **CORS)
    app.add_middleware(Farewell, leaving=app.state.leaving)
    app.add_middleware(RequestIds)
    if settings.otel:
        app.add_middleware(TraceContext)
    return app


@cache
def _api_routes() -> list[BaseRoute]:
    """Make the routes that are the same in every app, once: they are most of what an app costs, and tests make many."""
    api = APIRouter(responses=DESCRIBED)
    for router in (
        jobs.router,
        many_jobs.router,
        groups.router,
        events.router,
        webhooks.router,
        files.router,
        openai.router,
        responses.router,
        batches.router,
        admin_keys.router,
        usage.router,
        health.router,
        health.open_router,
        workers.router,
        workers.admin_router,
    ):
        api.include_router(router)
    return api.routes


async def _refuse_unsafe(check: StoreCheck) -> None:
    """Leave if Redis could lose jobs; while it is away, requests are answered with 503 and it is asked again."""
    try:
        await check.until_safe()
    except StoreUnsafe as error:
        log.error("store.unsafe", error=error.message)  # noqa: TRY400  # the message says it all
        signal.raise_signal(signal.SIGTERM)


async def _fail_overdue(store: JobStore) -> None:
    """End jobs that were to begin by now, also while no worker is there to do it."""
    while True:
        with suppress(RedisError):  # requests are answered with 503 meanwhile
            await store.fail_overdue()
        await asyncio.sleep(OVERDUE_EVERY_S)


class RequestIds:
    """Gives each request an id, for its answer and its log lines, and its answer the headers that a key's limits ask for."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand in front of an app."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Name the request, and pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"] = request_id = new_id("req")

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = {"x-request-id": request_id, **state.get("allowance", {})}
                message["headers"] = [*message["headers"], *((name.encode(), value.encode()) for name, value in added.items())]
            await send(message)

        structlog.contextvars.bind_contextvars(request_id=request_id)  # the server gives each request a context of its own
        await self._app(scope, receive, send_named)


class BodyLimit:
    """Refuses bodies that are too large, by their declared length at once, by their real one while they stream."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        """Give uploads their own limit, everything else that of JSON."""
        self._app = app
        self._json = RequestBodyLimitMiddleware(app, settings.max_body_bytes)
        self._upload = RequestBodyLimitMiddleware(app, settings.max_upload_bytes + ENVELOPE_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through or answer 413 in the one error shape."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._upload if scope["path"] == "/v1/files" else self._json
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0")
        if b"transfer-encoding" in headers or not declared.isdigit():
            await limit(scope, receive, send)
        elif int(declared) <= limit.max_body_size:
            await self._app(scope, receive, send)  # the server reads no further than the declared length
        else:
            msg = f"the body is longer than {limit.max_body_size} bytes; large files go to POST /v1/files"
            error = too_long(limit.max_body_size - ENVELOPE_BYTES) if limit is self._upload else BodyTooLarge(msg)
            await problem(error)(scope, receive, send)


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    settings = start_part("gateway")
    most = raise_file_limit(settings.max_connections)
    if most < settings.max_connections:
        log.warning("gateway.few_files", max_connections=most, remedy="raise the limit of open files (ulimit -n)")
    if settings.metrics_port and settings.metrics_keys:
        REGISTRY.register(KeyMetrics(settings))
    app = create_app(settings)
    rarely_collect()
    server = make_server(app, settings, limit_concurrency=most)
    with suppress(KeyboardInterrupt):
        server.run()
    tracer().end()
    if not server.started:  # it has said why
        sys.exit(1)


if __name__ == "__main__":
    main()
