"""Played workers on long queues: who waits how long, and that nothing starts too late. ``python -m bench.fleet`` is larger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from bench.fleet.crew import Plan, PlayedWorker
from bench.fleet.fill import make_due, queue_jobs
from bench.redis_cost.player import REQUEST, output_facts
from shared.aio import cancel_all
from shared.jobs import JobRequest, JobStatus, Output
from shared.settings import Settings
from shared.store.connection import Client, connect
from shared.store.endpoints import Endpoints
from shared.store.ids import new_id
from shared.store.jobs import JobStore
from shared.store.key_names import PREFIX
from shared.store.outbox import Outbox
from tests.claims import next_claims
from tests.integration.conftest import until


@asynccontextmanager
async def working(settings: Settings, *, places: int, run_s: float) -> AsyncIterator[None]:
    """Have a worker work."""
    async with connect(settings) as redis:
        worker = asyncio.create_task(PlayedWorker(settings, redis, "host:1-w", Plan(places=places, run_s=run_s)).run())
        try:
            yield
        finally:
            await cancel_all({worker})


async def submit(store: JobStore, settings: Settings, owner: str, n: int, **given: Any) -> list[str]:
    request = JobRequest.model_validate(REQUEST | given)

    async def one() -> str:
        return (await store.submit(request, settings, owner=owner, job_id=new_id("job")))[0]

    return [job_id for _ in range(0, n, 250) for job_id in await asyncio.gather(*(one() for _ in range(min(n, 250))))]


async def facts_of(store: JobStore, ids: list[str]) -> list[dict[str, str]]:
    """Read records."""
    async with store.redis.pipeline(transaction=False) as pipe:
        for job_id in ids:
            pipe.hgetall(f"{PREFIX}job:{job_id}")
        return list(await pipe.execute())


async def have_ended(store: JobStore, ids: list[str]) -> bool:
    return all("finished_ms" in facts for facts in await facts_of(store, ids))


async def kept(redis: Client) -> list[tuple[str, str, int]]:
    """Give for each key, but for ids in it, its kind and how much is in it."""
    sizes: dict[str, Any] = {"hash": redis.hlen, "zset": redis.zcard, "string": redis.strlen, "stream": redis.xlen}
    kinds = {key: await redis.type(key) for key in await redis.keys(f"{PREFIX}*")}
    return sorted([(key.split("_")[0], kind, await sizes[kind](key)) for key, kind in kinds.items()])


async def test_copies_of_jobs_are_as_submitted_ones(store: JobStore, settings: Settings) -> None:
    await submit(store, settings, "a", 3)
    await submit(store, settings, "b", 2)
    real = await kept(store.redis)
    await store.redis.flushall()

    await queue_jobs(store.redis, {"a": 3, "b": 2}, settings, max_running={})

    assert await kept(store.redis) == real
    claims = await next_claims(store, 9)
    assert len(claims) == 5
    assert (await store.counts())["queued"] == 0
    for claim in claims:
        assert await store.complete(claim, JobStatus.CANCELLED, output=None, error=None)


async def test_copies_of_deliveries_are_as_those_of_jobs_that_ended(store: JobStore, settings: Settings) -> None:
    facts = {"url": "https://example.com/hook", "events": ["job.succeeded"], "payload": "full"}
    await Endpoints(store.redis).create(owner="me", name="receiver", **facts)  # type: ignore[arg-type]
    await submit(store, settings, "me", 3)
    for claim in await next_claims(store, 3):
        await store.complete(claim, JobStatus.SUCCEEDED, output=Output.model_validate(output_facts("latin")), error=None)

    def of_deliveries(keys: list[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
        return [key for key in keys if key[0].startswith((f"{PREFIX}due", f"{PREFIX}delivery:"))]

    real = of_deliveries(await kept(store.redis))
    await store.redis.flushall()

    endpoint = await make_due(store.redis, "me", 3, settings)

    assert of_deliveries(await kept(store.redis)) == real
    taken = await Outbox(store.redis).take("sender", limit=9, most=9, lease_s=9, open_after=5)
    assert len({delivery.id for delivery in taken.deliveries if delivery.target == endpoint}) == 3


@pytest.mark.parametrize("places", [4, 32])
async def test_ten_jobs_beside_ten_thousand_of_another_wait_three_times_as_long_as_alone_at_most(
    places: int, store: JobStore, settings: Settings
) -> None:
    """From submit to end, the longest of them."""
    settings = settings.model_copy(update={"max_queued": 100_000})
    longest_ms = []
    for n_others in (0, 10_000):
        await store.redis.flushall()
        if n_others:
            await queue_jobs(store.redis, {"a": n_others}, settings, max_running={})
        async with working(settings, places=places, run_s=0.2):
            await asyncio.sleep(1)
            ids = await submit(store, settings, "b", 10)

            await until(partial(have_ended, store, ids))
        jobs = await facts_of(store, ids)
        longest_ms.append(max(int(facts["finished_ms"]) - int(facts["created_ms"]) for facts in jobs))

    alone, beside = longest_ms
    assert beside <= 3 * alone


async def test_no_job_starts_after_its_deadline_however_many_wait(store: JobStore, settings: Settings) -> None:
    """2,500 jobs that must begin within 3 s, on a worker that ends a hundred a second."""
    settings = settings.model_copy(update={"rescue_every_s": 1.0})
    async with working(settings, places=20, run_s=0.2):
        ids = await submit(store, settings, "a", 2500, start_deadline_s=3)
        await until(partial(have_ended, store, ids[-1:]), timeout_s=30)
        await until(partial(have_ended, store, ids), timeout_s=30)

    jobs = await facts_of(store, ids)
    waits_ms = {
        ident: int(facts.get("started_ms", 0)) - int(facts["created_ms"]) for ident, facts in zip(ids, jobs, strict=True)
    }
    started = [ident for ident, facts in zip(ids, jobs, strict=True) if facts["status"] == "succeeded"]
    assert len(started) >= 50
    assert [ident for ident in started if waits_ms[ident] > 3000] == []
    late = [facts for facts in jobs if facts["status"] == "failed"]
    assert len(late) + len(started) == 2500
    assert all('"start_deadline"' in facts["error"] and "started_ms" not in facts for facts in late)
