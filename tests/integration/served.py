"""A gateway on a real port, for clients that bring their own HTTP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from openai import AsyncOpenAI

from api.main import create_app
from shared.settings import Settings


@asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[str]:
    """Serve on this loop while the block runs, and give the address."""
    listening = socket.create_server(("127.0.0.1", 0))  # a port looked for beforehand may be another's by now
    config = uvicorn.Config(create_app(settings), log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    server.capture_signals = _Nothing  # type: ignore[method-assign]  # they are pytest's
    serving = asyncio.create_task(server.serve([listening]))
    while not server.started:
        assert not serving.done(), "the gateway did not start"
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


class _Nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def client_of(url: str) -> AsyncOpenAI:
    """Make the openai package's client of a gateway."""
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="EMPTY", max_retries=0, timeout=30)
