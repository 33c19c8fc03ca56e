"""What ``/metrics`` shows is what happened, on a real Valkey."""

from __future__ import annotations

from importlib.metadata import Distribution, PackageNotFoundError
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from api import VERSION
from shared.errors import MediaUnreadable
from shared.jobs import EngineInfo, JobRequest, JobStatus, Output, Priority, Usage
from shared.messages import short_form
from shared.settings import Settings
from shared.store.claims import Claim
from shared.store.deliveries import Outcome
from shared.store.ids import new_id
from shared.store.jobs import JobStore
from shared.store.key_names import PREFIX
from shared.store.outbox import Outbox
from shared.store.tallies import read_counts
from shared.store.workers import WorkerRegistry
from sightline.ports import free_port
from tests.claims import end_lease, next_claims
from tests.integration.conftest import app_of, gateway_for, until

#: A text that looks like what the counts are read from.
TEXT = '圆"usage":{"prompt_tokens":7,"vision_tokens":7,"output_tokens":7} "code": "forged"}'
OUTPUT = Output(
    text=TEXT,
    finish_reason="stop",
    usage=Usage(prompt_tokens=90, vision_tokens=64, output_tokens=6),
    engine=EngineInfo(name="double", version="1", model="qwen-vl"),
)
MODEL = "qwen-vl"
#: In which labels stand in what the tests name.
ORDER = ("worker", "class", "status", "phase", "code", "type", "outcome", "why", "model", "le", "version")


async def read(gateway: httpx.AsyncClient) -> dict[tuple[str, ...], float]:
    app_of(gateway).state.services.scrape._made_s = float("-inf")  # not what it kept
    families = text_string_to_metric_families((await gateway.get("/metrics")).text)
    return {
        (one.name, *(one.labels[name] for name in ORDER if name in one.labels)): one.value
        for family in families
        for one in family.samples
    }


@pytest.fixture
def store(gateway: httpx.AsyncClient) -> JobStore:
    store: JobStore = app_of(gateway).state.services.store
    return store


async def submit(store: JobStore, settings: Settings, **given: Any) -> str:
    owner, priority = given.pop("owner", "me"), given.pop("priority", Priority.DEFAULT)
    request = JobRequest.model_validate({"messages": short_form("描述一下", ["file-1"])} | given)
    return (await store.submit(request, settings, owner=owner, job_id=new_id("job"), priority=priority))[0]


async def claim(store: JobStore, n: int = 1) -> list[Claim]:
    return await next_claims(store, worker="host:1-w", n=n)


async def test_each_end_is_counted_once(gateway: httpx.AsyncClient, store: JobStore, settings: Settings) -> None:
    for _ in range(4):
        await submit(store, settings)
    await submit(store, settings, priority=Priority.BULK)
    one, two, three = await claim(store, 3)
    assert await store.complete(one, JobStatus.SUCCEEDED, output=OUTPUT, error=None)
    assert await store.complete(one, JobStatus.SUCCEEDED, output=OUTPUT, error=None)  # whose answer was lost
    assert await store.complete(two, JobStatus.FAILED, output=None, error=MediaUnreadable(TEXT))
    await end_lease(store, "host:1-w")
    await store.rescue(settings)
    assert not await store.complete(three, JobStatus.SUCCEEDED, output=OUTPUT, error=None)  # too late

    seen = await read(gateway)

    assert seen["sightline_jobs_accepted_total", "default", MODEL] == 4
    assert seen["sightline_jobs_accepted_total", "bulk", MODEL] == 1
    ended = {key[1:]: n for key, n in seen.items() if key[0] == "sightline_jobs_ended_total"}
    assert ended == {("default", "succeeded", "", MODEL): 1, ("default", "failed", "media_unreadable", MODEL): 1}
    assert [seen["sightline_tokens_total", kind] for kind in ("prompt", "vision", "output")] == [90, 64, 6]
    assert seen["sightline_rescued_total",] == seen["sightline_fenced_writes_total",] == 1
    assert seen["sightline_job_run_seconds_count", "default"] == seen["sightline_job_wait_seconds_count", "default"] == 2
    assert seen["sightline_job_run_seconds_bucket", "default", "60.0"] == 2
    assert seen["sightline_jobs", "queued"] == 3


async def test_who_waits_longest_is_told_by_class(gateway: httpx.AsyncClient, store: JobStore, settings: Settings) -> None:
    for owner in ("me", "you"):
        await submit(store, settings, owner=owner)
    [old, *_] = [key async for key in store.redis.scan_iter(match=f"{PREFIX}q:default:*:you")]
    [[job, created_ms]] = await store.redis.zrange(old, 0, -1, withscores=True)
    await store.redis.zadd(old, {job: created_ms - 3_600_000})

    seen = await read(gateway)

    assert 3600 <= seen["sightline_queue_oldest_age_seconds", "default"] < 3660
    assert seen["sightline_queue_oldest_age_seconds", "bulk"] == 0
    assert 3600 <= (await gateway.get("/v1/queue")).json()["oldest_age_s"] < 3660


async def test_webhooks_are_counted_by_how_they_went(gateway: httpx.AsyncClient, store: JobStore, settings: Settings) -> None:
    await submit(store, settings, webhook={"url": "https://r.example/"})
    [one] = await claim(store)
    await store.complete(one, JobStatus.SUCCEEDED, output=OUTPUT, error=None)
    outbox, row = Outbox(store.redis), {"attempt": 1, "at": 1.0, "code": 204, "ms": 1, "error": None, "answer": ""}
    assert (await read(gateway))["sightline_webhook_overdue_seconds",] >= 0
    taken = await outbox.take("sender", limit=9, most=4, lease_s=30, open_after=5)
    await outbox.settle([Outcome(delivery, "delivered", row) for delivery in taken.deliveries])

    assert (await read(gateway))["sightline_webhook_attempts_total", "delivered"] == 1


async def test_a_dead_workers_gauges_go(gateway: httpx.AsyncClient, store: JobStore) -> None:
    facts = {"name": "host:1-ab12", "phase": "ready", "model": MODEL, "places": 10, "jobs_in_flight": 3, "engine_restarts": 2}
    await WorkerRegistry(store.redis).heartbeat("host:1-ab12", facts, ttl_s=0.3)
    seen = await read(gateway)
    assert seen["sightline_workers", "ready", MODEL] == 1
    assert seen["sightline_engine_restarts", "worker_ab12", MODEL] == 2

    async def is_gone() -> bool:
        return not any("worker_ab12" in key or key[0] == "sightline_workers" for key in await read(gateway))

    await until(is_gone)


async def test_keys_and_jobs_make_no_labels(gateway: httpx.AsyncClient, store: JobStore, settings: Settings) -> None:
    async def play(n: int) -> int:
        for i in range(n):
            await submit(store, settings, owner=f"key{i}")
        for one in await claim(store, n):
            await store.complete(one, JobStatus.SUCCEEDED, output=OUTPUT, error=None)
        return len(await read(gateway))

    assert await play(2) == await play(100)


async def test_every_gateway_shows_the_same(gateway: httpx.AsyncClient, store: JobStore, settings: Settings) -> None:
    await submit(store, settings)
    async with gateway_for(settings) as other:
        assert _lasting(await read(gateway)) == _lasting(await read(other))


def _lasting(seen: dict[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
    return {key: value for key, value in seen.items() if key[0] != "sightline_queue_oldest_age_seconds"}


async def test_scrapes_within_a_second_are_one_look(gateway: httpx.AsyncClient, store: JobStore, settings: Settings) -> None:
    before = (await gateway.get("/metrics")).text
    await submit(store, settings)
    assert (await gateway.get("/metrics")).text == before


async def test_the_version_is_told_where_no_package_of_ours_is_installed(
    gateway: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the images, which hold the sources alone."""
    installed = Distribution.from_name

    def from_name(name: str) -> Distribution:
        if name.startswith("sightline"):
            raise PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(Distribution, "from_name", from_name)
    assert (await read(gateway))["sightline_build_info", VERSION] == 1


async def test_where_redis_is_away_that_is_told(settings: Settings) -> None:
    gone = settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{free_port()}/0"})
    async with gateway_for(gone) as gateway:
        assert (await read(gateway))["sightline_redis_up",] == 0


def test_damaged_and_foreign_fields_are_left_out() -> None:
    odd = {"queued": "3", "end default": "1", "wait": "1", "tokens output": "x"}
    totals = odd | {"end default succeeded  a b": "2", "rescued": "4"}
    assert read_counts(totals) == {"end": {("default", "succeeded", "", "a b"): 2}, "rescued": {(): 4}}
