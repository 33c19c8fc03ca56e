"""Three classes of jobs: the urgent overtake, none starves, and no lost doorbell hides behind another class's backlog."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from kombu import Queue
from redis.asyncio import Redis

from shared.jobs import JobRequest, JobStatus, Priority
from shared.queue import JOBS_QUEUES, Doorbell, WeightedCycle, make_celery
from shared.settings import Settings
from shared.store.api_keys import ApiKeys
from shared.store.connection import connect, new_id
from shared.store.jobs import JobStore
from tests.integration.conftest import Worker, until

INTERACTIVE, DEFAULT, BULK = Priority


async def submit(store: JobStore, settings: Settings, priority: Priority, owner: str = "me", prompt: str = "x") -> str:
    request = JobRequest.model_validate({"messages": [{"role": "user", "content": prompt}]})
    job_id, _ = await store.submit(request, settings, owner=owner, job_id=new_id("job"), priority=priority)
    return job_id


def taken(settings: Settings, n: int) -> list[str]:
    """Take doorbells as a worker's consumer does, and name the classes in the order in which they came."""
    names, classes = [], {name: priority for priority, name in JOBS_QUEUES.items()}

    def take(body: Any, message: Any) -> None:
        names.append(classes[message.delivery_info["routing_key"]])
        message.ack()

    with make_celery(settings).connection_for_read() as connection:
        channel = connection.channel()
        channel.basic_qos(0, 1, False)  # noqa: FBT003  # kombu's signature
        with connection.Consumer([Queue(name, routing_key=name) for name in classes], callbacks=[take], channel=channel):
            while len(names) < n:
                connection.drain_events(timeout=20)
    return names[:n]


async def ring(settings: Settings, n: int, *priorities: Priority) -> None:
    async with connect(settings) as redis:
        bell = Doorbell(settings, redis)
        for priority in priorities:
            for number in range(n):
                await bell.ring_job(f"job_{number}", priority)


async def test_the_urgent_overtake_and_none_starves(settings: Settings) -> None:
    await ring(settings, 16, BULK, DEFAULT, INTERACTIVE)

    order = await asyncio.to_thread(taken, settings, 16)

    assert order == 2 * [INTERACTIVE, INTERACTIVE, INTERACTIVE, DEFAULT, INTERACTIVE, INTERACTIVE, INTERACTIVE, BULK]


async def test_bulk_jobs_have_all_the_room_when_nothing_else_waits(settings: Settings) -> None:
    await ring(settings, 8, BULK)

    assert await asyncio.to_thread(taken, settings, 8) == [BULK] * 8


async def test_a_worker_full_of_bulk_jobs_takes_only_others(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    await ring(settings, 3, BULK, DEFAULT, INTERACTIVE)
    monkeypatch.setattr(WeightedCycle, "bulk_most", 1)
    monkeypatch.setattr(WeightedCycle, "bulk_in_hand", {"one"})

    order = await asyncio.to_thread(taken, settings, 6)

    assert sorted(order) == sorted(3 * [DEFAULT] + 3 * [INTERACTIVE])


async def test_batches_never_fill_the_engine(settings: Settings, store: JobStore) -> None:
    settings = settings.model_copy(update={"max_num_seqs": 8})
    async with Worker(settings).running() as worker, connect(settings) as redis:
        bell = Doorbell(settings, redis)
        for _ in range(12):
            await bell.ring_job(await submit(store, settings, BULK, prompt="!slow 60"), BULK)
        await until(lambda: _is(worker.engine.running == 7))
        chat = await submit(store, settings, INTERACTIVE)
        await bell.ring_job(chat, INTERACTIVE)

        assert (await until(lambda: ended(store, chat))).status is JobStatus.SUCCEEDED
        assert worker.engine.peak == 8


async def _is(value: bool) -> bool:  # noqa: FBT001
    return value


async def test_a_lost_doorbell_is_seen_beside_a_backlog_of_another_class(
    settings: Settings, store: JobStore, redis: Redis
) -> None:
    for _ in range(300):
        await submit(store, settings, BULK)
    await ring(settings, 300, BULK)
    lost = await submit(store, settings, INTERACTIVE)
    for name in ("queued:bulk", "queued:interactive"):
        await redis.zadd(f"{{sightline}}:{name}", dict.fromkeys(await redis.zrange(f"{{sightline}}:{name}", 0, -1), 1))

    assert [await store.rescue(settings, priority) for priority in Priority] == [[lost], [], []]
    assert (await store.counts())["queued"] == 301


async def test_every_class_runs(settings: Settings, store: JobStore, worker: Worker) -> None:
    ids = [await submit(store, settings, priority) for priority in Priority]
    await store.redis.zadd("{sightline}:queued:bulk", {ids[2]: 1})  # its doorbell was lost: rescue rings it
    for job_id, priority in zip(ids[:2], Priority, strict=False):
        await Doorbell(settings, store.redis).ring_job(job_id, priority)

    for job_id in ids:
        job = await until(lambda job_id=job_id: ended(store, job_id))
        assert job.status is JobStatus.SUCCEEDED


async def ended(store: JobStore, job_id: str) -> Any:
    job = await store.get(job_id)
    return job if job.status.is_final else None


async def test_a_key_runs_no_more_jobs_at_a_time_than_it_may(settings: Settings, store: JobStore, redis: Redis) -> None:
    key, _ = await ApiKeys(redis).create("two", max_running=2)
    ids = [await submit(store, settings, DEFAULT, key.id) for _ in range(3)]
    other = await submit(store, settings, DEFAULT, "somebody else")

    claims = [await store.claim(job_id, worker="w", lease_s=60) for job_id in [*ids, other]]

    assert [claim is not None for claim in claims] == [True, True, False, True]
    assert (await store.get(ids[2])).status is JobStatus.QUEUED
    assert claims[0] is not None
    await store.complete(claims[0], JobStatus.FAILED, output=None, error=None)
    await redis.zadd("{sightline}:queued", {ids[2]: 1})
    assert ids[2] in await store.rescue(settings)  # whatever the count of doorbells says
    assert await store.claim(ids[2], worker="w", lease_s=60) is not None
