"""A gateway on a real port with a runner of batches beside it, for clients that bring their own HTTP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import cast

from fastapi import FastAPI
from openai import AsyncOpenAI

from api.batches.runner import BatchRunner
from api.main import create_app
from api.server import make_server
from api.services import make_services
from shared.settings import Settings
from shared.store.connection import Client, connect
from tests.answers import Compared


@asynccontextmanager
async def served(settings: Settings, app: FastAPI | None = None, *, port: int = 0, batches: bool = True) -> AsyncIterator[str]:
    """Serve on this loop while the block runs, and run ``batches`` beside it; gives the address."""
    listening = socket.create_server(("127.0.0.1", port))  # a port looked for beforehand may be another's by now
    app = app or create_app(settings)
    app.add_middleware(Compared)
    server = make_server(app, settings, timeout_graceful_shutdown=1)
    server.capture_signals = _Nothing  # type: ignore[method-assign]  # they are pytest's
    serving = asyncio.create_task(server.serve([listening]))
    while not server.started:
        assert not serving.done(), "the gateway did not start"
        await asyncio.sleep(0.01)
    try:
        async with running_batches(settings) if batches else nullcontext():
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def running_batches(settings: Settings) -> AsyncIterator[BatchRunner]:
    """Run batches on this loop while the block runs, as ``python -m api.batches.main`` does in a process of its own."""
    async with connect(settings) as redis:
        runner = BatchRunner(make_services(settings, cast("Client", redis)))
        serving = asyncio.create_task(runner.serve())
        try:
            yield runner
        finally:
            runner.leave()
            await serving


class _Nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def client_of(url: str) -> AsyncOpenAI:
    """Make the openai package's client of a gateway."""
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="EMPTY", max_retries=0, timeout=30)
