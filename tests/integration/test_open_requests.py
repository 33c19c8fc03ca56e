"""Requests that stay open: readers who leave leave nothing behind, a revoked key's end, and a full pool is told."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

import httpx
import pytest
from fastapi import FastAPI
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as Disconnected

from api.main import create_app
from api.services import Services
from shared.errors import CancelledByClient
from shared.settings import Settings
from shared.store.api_keys import ApiKeys
from shared.store.connection import connect, reply
from shared.store.event_log import EventLog
from shared.store.jobs import JobStore
from shared.store.notifier import hear
from tests.integration.conftest import app_of, n_queued, until
from tests.integration.served import served
from tests.integration.test_job_store import OUTPUT, Records
from tests.integration.test_refusals import assert_one_shape
from tests.leavers import KINDS, STREAMS, WAYS, leave, request_of

LEAVERS = 60  #: of each kind in each way


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings)


@pytest.fixture
async def address(app: FastAPI, settings: Settings) -> AsyncIterator[tuple[str, int]]:
    async with served(settings, app, batches=False) as url:  # whose runner has a subscription of its own
        yield "127.0.0.1", int(url.rpartition(":")[2])


@pytest.fixture
def records(store: JobStore, settings: Settings) -> Records:
    return Records(store, settings)


def services_of(app: FastAPI) -> Services:
    services: Services = app.state.services
    return services


async def waiting_ids(records: Records, owner: str = "local") -> dict[str, str]:
    job_id = await records.submit(owner=owner)
    await records.redis.hset(f"sightline:{{sightline}}:job:{job_id}", "response", "{}")
    return {"JOB": job_id, "RESP": job_id.replace("job_", "resp_")}


@dataclass(frozen=True)
class Left:
    """What readers may leave behind, counted."""

    open_requests: int
    waiters: int
    tasks: int
    in_use: int  #: connections of the gateway to Redis; one is its subscription
    subscriptions: int


async def left_behind(app: FastAPI, redis: Redis) -> Left:
    services = services_of(app)
    client = services.store.redis
    ((_, subscriptions),) = await redis.pubsub_numsub("sightline:{sightline}:news")
    tasks = len(asyncio.all_tasks())
    return Left(
        len(services.open_requests), client.notifier.n_waiting, tasks, len(client.pool._in_use_connections), subscriptions
    )


async def at_rest(app: FastAPI, redis: Redis) -> Left:
    """Count between two rounds of the gateway's chores, which have a task and a connection for a moment."""
    seen = []
    for _ in range(30):
        seen.append(await left_behind(app, redis))
        await asyncio.sleep(0.01)
    return min(seen, key=lambda left: (left.tasks, left.in_use))


@pytest.mark.parametrize("kind", KINDS)
async def test_readers_who_leave_leave_nothing_behind(
    kind: str, app: FastAPI, address: tuple[str, int], records: Records, redis: Redis
) -> None:
    ids = await waiting_ids(records)
    request = request_of(kind, ids)

    async def has_subscribed() -> bool:
        """The first that waits has the subscription begin; one may be gone before a busy gateway has it wait."""
        await leave(address, request_of("long poll", ids), "half closed", is_stream=False)
        return await _is(app, redis, lambda now: now.subscriptions == 1 and not now.open_requests)

    await until(has_subscribed)
    before = await at_rest(app, redis)

    with held_by_themselves() as types:
        for way in WAYS:
            await asyncio.gather(*(leave(address, request, way, is_stream=kind in STREAMS) for _ in range(LEAVERS)))
        assert (before.open_requests, before.waiters, before.in_use, before.subscriptions) == (0, 0, 1, 1)
        await until(lambda: _is(app, redis, lambda now: now == before))  # the gateway's chores come and go
    # Nothing waits for a full collection: with thousands of readers it takes seconds, in which nobody is served.
    assert not types & {"RequestResponseCycle", "EventStream", "Waiter"}
    if "POST" in KINDS[kind]:  # a client that hangs up cancels what it asked for
        assert await n_queued(redis, "interactive") == 0


@pytest.mark.parametrize("kind", sorted(STREAMS))
async def test_a_stream_holds_nothing_of_what_made_it(
    kind: str, app: FastAPI, address: tuple[str, int], records: Records, redis: Redis
) -> None:
    def n_stacks() -> int:  # of FastAPI: three for each request whose handlers have not returned
        return sum(type(thing) is AsyncExitStack for thing in gc.get_objects())

    request = request_of(kind, await waiting_ids(records))
    before = n_stacks()
    reader, writer = await asyncio.open_connection(*address)
    writer.write(request)
    assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
    await until(lambda: _are_open(app, 1))
    await until(lambda: _true(n_stacks() <= before))
    writer.close()
    await until(lambda: _are_open(app, 0))


async def _true(is_so: bool) -> bool:  # noqa: FBT001  # as `until` asks
    return is_so


@contextmanager
def held_by_themselves() -> Iterator[set[str]]:
    """Give, once the block has ended, the types of what only a full collection would have freed."""
    types = set[str]()
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield types
        gc.collect()
        types |= {type(thing).__name__ for thing in gc.garbage}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


async def _is(app: FastAPI, redis: Redis, holds: Callable[[Left], bool]) -> bool:
    return holds(await left_behind(app, redis))


# --- a key that is revoked ---


@pytest.mark.parametrize("kind", KINDS)
async def test_a_revoked_keys_requests_end_and_say_why(
    kind: str, settings: Settings, records: Records, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.open_requests.KEYS_EVERY_S", 0.1)
    keys = ApiKeys(redis)  # type: ignore[arg-type]
    (revoked, secret), (kept, other) = await keys.create("revoked"), await keys.create("kept")
    asks = [request_of(kind, await waiting_ids(records, key.id), key=own) for key, own in ((revoked, secret), (kept, other))]
    app = create_app(settings.model_copy(update={"require_keys": True}))
    async with served(settings, app, batches=False) as url:
        address = "127.0.0.1", int(url.rpartition(":")[2])
        mine, hers = [asyncio.create_task(answer_to(address, ask)) for ask in asks]
        await until(lambda: _are_open(app, 2))

        await keys.revoke(revoked.id)

        answer = await asyncio.wait_for(mine, 60)
        assert b'"invalid_api_key"' in answer
        assert b"this API key was revoked" in answer
        assert answer.startswith(b"HTTP/1.1 200" if kind in STREAMS else b"HTTP/1.1 401")
        assert not hers.done()
        hers.cancel()
        await asyncio.wait({hers})


async def answer_to(address: tuple[str, int], request: bytes) -> bytes:
    """Ask, and give the whole answer, however long it takes."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(request.replace(b"host: localhost", b"host: localhost\r\nconnection: close"))
    try:
        return await reader.read()
    finally:
        writer.close()


async def _are_open(app: FastAPI, n: int) -> bool:
    return len(services_of(app).open_requests) == n


# --- one look for all ---


async def _commands(redis: Redis, name: str) -> int:
    stats = await redis.info("commandstats")
    return int(stats.get(f"cmdstat_{name}", {}).get("calls", 0))


async def test_silent_readers_cost_one_look_for_each_job(
    records: Records, settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.store.notifier.LOOK_EVERY_S", 0.05)
    job_id = await records.submit()
    async with connect(settings) as client:
        log, told = EventLog(client), list[str]()

        async def listen() -> None:
            async for entry in log.follow(job_id):
                told.append(entry.type)

        readers = [asyncio.create_task(listen()) for _ in range(200)]
        await until(lambda: _has(told, 200))
        await asyncio.sleep(0.3)  # the subscription stands
        before = await _commands(redis, "xrange"), await _commands(redis, "hget")
        await asyncio.sleep(0.5)
        reads, looks = await _commands(redis, "xrange") - before[0], await _commands(redis, "hget") - before[1]
        assert reads == 0
        assert 0 < looks <= 15
        await records.store.cancel(job_id, CancelledByClient())
        await asyncio.gather(*readers)

    assert told.count("job.cancelled") == 200
    assert await _commands(redis, "xrange") - before[0] < 20  # those that asked at the same time shared an answer


async def _has(told: list[str], n: int) -> bool:
    return len(told) >= n


async def test_news_that_was_missed_is_found(records: Records, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """The subscription is cut off when it matters, again and again."""
    monkeypatch.setattr("shared.store.notifier.LOOK_EVERY_S", 0.1)
    for _ in range(3):
        job_id = await records.submit()
        ended = asyncio.create_task(_read_to_the_end(EventLog(records.redis), job_id))
        await asyncio.sleep(0.05)
        await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")  # type: ignore[no-untyped-call]
        await records.end(await records.claim(job_id), OUTPUT)
        assert (await asyncio.wait_for(ended, 10))[-1] == "job.succeeded"


async def _read_to_the_end(log: EventLog, job_id: str) -> list[str]:
    return [entry.type async for entry in log.follow(job_id)]


async def test_a_subscription_that_stands_still_is_given_up(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the gateway and Redis is something that keeps the connection and passes nothing on."""
    monkeypatch.setattr("shared.store.notifier.QUIET_S", 0.1)
    async with passing_on(settings) as (through, frozen), connect(through) as client:
        heard = list[tuple[str, str | None]]()

        async def listen() -> None:
            async for message in hear(client, "sightline:{sightline}:news"):
                heard.append(message)

        listening = asyncio.create_task(listen())
        await until(lambda: _has([channel for channel, _ in heard], 1))
        await asyncio.sleep(0.5)
        assert not listening.done()  # it is silent, and answers
        frozen.set()
        with pytest.raises(Disconnected, match="does not answer"):
            await asyncio.wait_for(listening, 60)


@asynccontextmanager
async def passing_on(settings: Settings) -> AsyncIterator[tuple[Settings, asyncio.Event]]:
    """Stand in front of Redis and pass everything on, until the event is set."""
    frozen, passing = asyncio.Event(), set[asyncio.Task[None]]()
    port = int(settings.redis_url.rpartition(":")[2].partition("/")[0])

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not frozen.is_set():
                writer.write(data)
        writer.close()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        redis_reader, redis_writer = await asyncio.open_connection("127.0.0.1", port)
        passing.update({asyncio.create_task(pass_on(reader, redis_writer)), asyncio.create_task(pass_on(redis_reader, writer))})

    async with await asyncio.start_server(meet, "127.0.0.1", 0) as server:
        own = server.sockets[0].getsockname()[1]
        yield settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{own}/0"}), frozen
        for task in passing:
            task.cancel()


# --- a full pool ---


async def test_an_empty_pool_is_told_within_seconds(gateway: httpx.AsyncClient) -> None:
    pool = services_of(app_of(gateway)).store.redis.pool
    taken = list[AbstractConnection]()
    for _ in range(5):
        while pool.can_get_connection():
            taken.append(await pool.get_connection())
        await asyncio.sleep(0.02)  # what was under way gives its connection back

    async with asyncio.timeout(60):
        answers = await asyncio.gather(*(gateway.get(path) for path in ("/v1/jobs", "/v1/jobs/job_1", "/readyz")))

    for answer in answers:
        body = assert_one_shape(answer, status=503, code="store_unavailable")
        assert "all 100 connections to Redis are in use" in body["detail"]
        assert int(answer.headers["retry-after"]) > 0
    assert (await gateway.get("/livez")).status_code == 200
    pool.moved_at_s -= 100
    assert_one_shape(await gateway.get("/livez"), status=503, code="not_alive")
    for connection in taken:
        await pool.release(connection)
    assert (await gateway.get("/livez")).status_code == 200
    assert (await gateway.get("/v1/jobs")).status_code == 200


async def test_a_loop_that_cannot_keep_up_is_not_alive(gateway: httpx.AsyncClient) -> None:
    services_of(app_of(gateway)).pulse.late_s = 6.0

    assert_one_shape(await gateway.get("/livez"), status=503, code="not_alive")


async def test_a_caller_who_is_cancelled_keeps_no_connection(settings: Settings) -> None:
    """Cancelled twice, the second time while the connection is given back."""
    async with connect(settings) as client:
        call = asyncio.create_task(reply(client.blpop(["nothing"], 60)))
        await until(lambda: _has(["taken"] * len(client.pool._in_use_connections), 1))
        await client.pool._condition.acquire()  # as somebody else has it who takes or gives one back
        for _ in range(2):
            call.cancel()
            await asyncio.sleep(0.02)
        client.pool._condition.release()

        await until(lambda: _has(["free"] * (not client.pool._in_use_connections), 1), timeout_s=60)
        assert call.cancelled()
