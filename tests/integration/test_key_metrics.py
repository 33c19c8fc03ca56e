"""What a gateway's own port tells of the busiest keys."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from api.key_metrics import KeyMetrics
from shared.settings import Settings
from shared.store.jobs import JobStore
from shared.store.key_names import PREFIX
from tests.claims import claim_job
from tests.integration.test_quotas import _one_day, end, key_of, submit

__all__ = ["_one_day"]


def told(settings: Settings, **changes: Any) -> dict[tuple[str, ...], float]:
    """Scrape, and give each figure by its name and the values of its labels, but for the key's id."""
    registry = CollectorRegistry()
    registry.register(KeyMetrics(settings.model_copy(update=changes)))
    samples = [sample for family in registry.collect() for sample in family.samples]
    return {(one.name, *(value for name, value in one.labels.items() if name != "key")): one.value for one in samples}


async def named(redis: Redis, name: str, **limits: Any) -> str:
    key_id, _ = await key_of(redis, **limits)
    await redis.hset(f"{PREFIX}key:{key_id}", "name", name)  # type: ignore[misc]
    return key_id


async def test_the_keys_with_the_most_jobs_are_told_of(store: JobStore, settings: Settings) -> None:
    quiet, busy, busier = [await named(store.redis, name) for name in ("quiet", "busy", "最忙的")]
    await store.redis.hset(f"{PREFIX}owner:{busier}", "max_vision_tokens_day", 900)  # type: ignore[misc]
    for owner, n in (quiet, 1), (busy, 2), (busier, 4):
        jobs = [await submit(store, settings, owner) for _ in range(n)]
    await end(store, jobs[0])
    claim = await claim_job(store, jobs[1])
    assert claim

    seen = told(settings, metrics_keys=2)

    assert {key[1] for key in seen} == {"busy", "最忙的"}
    assert seen["sightline_key_jobs", "最忙的", "queued"] == 2
    assert seen["sightline_key_jobs", "最忙的", "running"] == 1
    assert seen["sightline_key_used_total", "最忙的", "jobs"] == 4
    assert seen["sightline_key_used_total", "最忙的", "succeeded"] == 1
    assert seen["sightline_key_used_total", "最忙的", "vision_tokens"] == 64
    assert seen["sightline_key_quota", "最忙的", "vision_tokens"] == 900
    assert ("sightline_key_quota", "busy", "jobs") not in seen
    assert len({key[1] for key in told(settings)}) == 3
    assert told(settings, metrics_keys=0) == {}

    await store.redis.hincrby(f"{PREFIX}owner:{busier}", "day", -1)  # type: ignore[misc]
    assert told(settings)["sightline_key_used_total", "最忙的", "jobs"] == 0


async def test_what_is_damaged_is_left_out(store: JobStore, settings: Settings) -> None:
    owner = await named(store.redis, "odd")
    await submit(store, settings, owner)
    await store.redis.hset(f"{PREFIX}owner:{owner}", mapping={"used:other": "x", "running": "-1", "used:": "3"})  # type: ignore[misc]
    await store.redis.hset(f"{PREFIX}key:{owner}", "name", b"\xff")  # type: ignore[misc]
    torn = await named(store.redis, "torn")
    await store.redis.delete(f"{PREFIX}owner:{torn}")
    await store.redis.set(f"{PREFIX}owner:{torn}", "text")

    seen = told(settings)

    assert seen["sightline_key_used_total", "�", "jobs"] == 1
    assert seen["sightline_key_jobs", "�", "running"] == 0
    assert {key[1] for key in seen} == {"�"}


async def test_without_redis_the_other_figures_are_told(settings: Settings) -> None:
    assert told(settings, redis_url="redis://127.0.0.1:9/0") == {}
