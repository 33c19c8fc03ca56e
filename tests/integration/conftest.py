"""The gateway, a worker's runtime on the double, and a web site to fetch from and deliver to."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from openai import AsyncOpenAI
from redis.asyncio import Redis
from redis.exceptions import RedisError

from api.main import create_app
from shared.aio import cancel_all
from shared.doorbells import queue_of
from shared.settings import DEFAULT_MODEL, ROOT, Settings
from shared.store.connection import connect
from shared.store.key_names import PREFIX, bell_prefix
from tests import answers
from tests.answers import Compared
from tests.double import DoubleEngine
from tests.forked import ForkServer, forking
from tests.integration.served import client_of, served
from worker.phase import Phase
from worker.runtime import Runtime


@asynccontextmanager
async def gateway_for(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Run a gateway on this loop, its lifespan included, and give a client of it."""
    app = create_app(settings)
    app.add_middleware(Compared)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30) as client:
            client.app = app  # type: ignore[attr-defined]
            yield client


@pytest.fixture(autouse=True)
def forked(request: pytest.FixtureRequest, fork_server: ForkServer) -> Iterator[None]:
    """Fork the parts and commands that a test starts, unless it is marked to start them as users do."""
    with nullcontext() if request.node.get_closest_marker("own_python") else forking(fork_server):
        yield


@pytest.fixture(autouse=True)
def answers_are_as_described() -> Iterator[None]:
    """Compare every answer of every test with the API's description."""
    answers.mistakes.clear()
    yield
    assert answers.mistakes == []


@pytest.fixture
async def url(settings: Settings) -> AsyncIterator[str]:
    """Give the address of a gateway behind a real server."""
    async with served(settings) as url:
        yield url


@pytest.fixture
async def client(url: str) -> AsyncIterator[AsyncOpenAI]:
    """Give the openai package's client of that gateway."""
    async with client_of(url) as client:
        yield client


@pytest.fixture
async def gateway(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of a running gateway."""
    async with gateway_for(settings) as client:
        yield client


def app_of(client: httpx.AsyncClient) -> FastAPI:
    """Give the app behind a client."""
    app: FastAPI = client.app  # type: ignore[attr-defined]
    return app


async def bells(redis: Redis, model: str = DEFAULT_MODEL) -> int:
    """Take the doorbells that wait for workers of a model, and count them."""
    return len(await redis.lpop(f"{bell_prefix()}{queue_of(model)}", 1000) or [])  # type: ignore[misc]


async def queued(redis: Redis) -> list[str]:
    """Give the ids of the jobs that wait, the oldest first."""
    scored = [await redis.zrange(key, 0, -1, withscores=True) async for key in redis.scan_iter(match=f"{PREFIX}q:*")]
    return [job_id for job_id, _ in sorted((job for jobs in scored for job in jobs), key=lambda job: (job[1], job[0]))]


async def n_queued(redis: Redis, priority: str) -> int:
    """Count the jobs of a class that wait."""
    return sum([await redis.zcard(key) async for key in redis.scan_iter(match=f"{PREFIX}q:{priority}:*")])


def stored_files(settings: Settings) -> set[str]:
    """Name the files that lie in the blobs' folder; folders may go while it is looked through."""
    folder = Path(settings.blobs_url)
    return {str(Path(place, name).relative_to(folder)) for place, _, names in os.walk(folder) for name in names}


async def until(is_so: Callable[[], Awaitable[Any]], *, timeout_s: float = 20) -> Any:
    """Ask again and again until the answer is true, and give it."""
    async with asyncio.timeout(timeout_s):
        while not (answer := await is_so()):  # noqa: ASYNC110  # nobody tells a test
            await asyncio.sleep(0.02)
    return answer


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[tuple[httpx.AsyncClient, subprocess.Popen[bytes]]]:
    """Run a gateway as a process and give a client of it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = {
        "SIGHTLINE_REDIS_URL": settings.redis_url,
        "SIGHTLINE_BLOBS_URL": settings.blobs_url,
        "SIGHTLINE_PORT": str(port),
        "SIGHTLINE_ALLOW_NETWORKS": ",".join(map(str, settings.allow_networks)),
    }
    process = subprocess.Popen([sys.executable, "-m", "api.main"], cwd=ROOT, env={**os.environ, **own})  # noqa: ASYNC220
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, limits=limits) as client:

        async def answers() -> bool:
            with suppress(httpx.TransportError):
                return (await client.get("/livez")).is_success
            return False

        try:
            await until(answers, timeout_s=60)
            yield client, process
        finally:
            process.kill()
            process.wait()


class Worker:
    """A runtime on the double, rung by the doorbells that lie in Redis."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.engines = settings, list[DoubleEngine]()
        self.is_hungry = False
        self.runtime = Runtime(settings, self._make_engine, on_hunger=self._on_hunger)
        self.crashes: list[BaseException] = []

    def _on_hunger(self, is_hungry: bool) -> None:  # noqa: FBT001
        self.is_hungry = is_hungry

    def _make_engine(self) -> DoubleEngine:
        self.engines.append(DoubleEngine(self.settings))
        return self.engines[-1]

    @property
    def engine(self) -> DoubleEngine:
        """The one that runs now."""
        return self.engines[-1]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Worker]:
        """Serve and answer doorbells while the block runs."""
        serving = asyncio.create_task(self.runtime.serve())
        async with connect(self.settings) as redis:
            ready = asyncio.create_task(self.runtime.ready.wait())
            await asyncio.wait([serving, ready], return_when=asyncio.FIRST_COMPLETED)
            answering = asyncio.create_task(self._answer_doorbells(redis))
            try:
                yield self
            finally:
                await cancel_all({answering, ready})
                serving.cancel()
                await asyncio.wait([serving])

    async def _answer_doorbells(self, redis: Redis) -> None:
        while self.runtime.readiness.phase is not Phase.DRAINING:  # as Celery's consumer, which then takes no more messages
            with suppress(RedisError):
                if self.is_hungry and await bells(redis, self.settings.served_model_name):
                    self.runtime.ring()
            await asyncio.sleep(0.01)


@pytest.fixture
async def worker(settings: Settings) -> AsyncIterator[Worker]:
    """Give a worker that serves."""
    async with Worker(settings).running() as worker:
        yield worker


@dataclass(frozen=True)
class Asked:
    """One request that a site got."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at_s: float


@dataclass
class Reply:
    """What a site answers."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0  #: before the answer
    drip_s: float = 0.0  #: between the bytes of the body


class Site:
    """A web server on this machine that answers what the test says: at a path, or in turn, the last reply again and again."""

    def __init__(self) -> None:
        self.replies: list[Reply] = [Reply()]
        self.by_path = dict[str, Reply]()
        self.asked: list[Asked] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(poll_interval=0.02))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                site.asked.append(Asked(self.command, self.path, headers, body, time.time()))
                in_turn = site.replies.pop(0) if len(site.replies) > 1 else site.replies[0]
                reply = site.by_path.get(self.path, in_turn)
                time.sleep(reply.delay_s)
                self.close_connection = True
                with suppress(OSError):  # the other side may have left
                    self.send_response(reply.status)
                    for name, value in {"content-length": str(len(reply.body)), **reply.headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    if not reply.drip_s:
                        self.wfile.write(reply.body)
                        return
                    for n in range(len(reply.body)):
                        self.wfile.write(reply.body[n : n + 1])
                        time.sleep(reply.drip_s)

            do_POST = do_GET  # noqa: N815  # the library's name

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture
def site() -> Iterator[Site]:
    """Give a web site."""
    site = Site()
    yield site
    site.close()
