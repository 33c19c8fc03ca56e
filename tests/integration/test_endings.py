"""Ends of jobs that come one by one while many are in flight are written together."""

from __future__ import annotations

import asyncio

import pytest

from shared.blobs import Blobs
from shared.jobs import EngineInfo, JobRequest, JobStatus, Output, Priority, Usage
from shared.settings import Settings
from shared.store.claims import Claim
from shared.store.ids import new_id
from shared.store.jobs import JobStore
from tests.claims import next_claims
from worker import endings
from worker.endings import FEW, Endings
from worker.running_job import Running

OUTPUT = Output(
    text="a red circle",
    finish_reason="stop",
    usage=Usage(prompt_tokens=9, vision_tokens=4, output_tokens=3),
    engine=EngineInfo(name="vllm", version="0", model="qwen-vl"),
)


@pytest.fixture
def moment(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Give the next moment, which comes when the test says so."""
    comes = asyncio.Event()

    async def wait(_: float) -> None:
        await comes.wait()

    monkeypatch.setattr(endings, "next_moment", wait)
    return comes


async def claims_of(store: JobStore, settings: Settings, n: int, priority: Priority = Priority.DEFAULT) -> list[Claim]:
    request = JobRequest.model_validate({"messages": [{"role": "user", "content": "What is there?"}]})
    for _ in range(n):
        await store.submit(request, settings, owner="local", job_id=new_id("job"), priority=priority)
    return await next_claims(store, n)


def end_each(ends: Endings, jobs: list[Running]) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(ends.end(job, JobStatus.SUCCEEDED, output=OUTPUT)) for job in jobs]


async def statuses(store: JobStore, claims: list[Claim]) -> list[JobStatus]:
    return [(await store.get(claim.job_id)).status for claim in claims]


async def n_calls(store: JobStore) -> int:
    stats = await store.redis.info("commandstats")
    return int(stats["cmdstat_fcall"]["calls"])


async def test_ends_wait_for_each_other_while_many_are_in_flight(
    store: JobStore, settings: Settings, blobs: Blobs, moment: asyncio.Event
) -> None:
    claims, freed = await claims_of(store, settings, 16), list[bool]()
    ends = Endings(settings, store, blobs, claims, lambda: freed.append(True))
    jobs = list(map(Running, claims))
    tasks = end_each(ends, jobs)
    for _ in range(20):
        await asyncio.sleep(0.005)  # each of them has had its time
    assert await statuses(store, claims) == [JobStatus.RUNNING] * 16
    assert not any(job.needs_place for job in jobs)  # the engine has room for as many meanwhile
    assert len(freed) == 16
    before = await n_calls(store)

    moment.set()
    await asyncio.gather(*tasks)

    assert await statuses(store, claims) == [JobStatus.SUCCEEDED] * 16
    assert await n_calls(store) - before == 2  # eight a call
    assert all(job.needs_place for job in jobs)


@pytest.mark.parametrize(("beside", "priority"), [(FEW, Priority.DEFAULT), (200, Priority.INTERACTIVE)])
async def test_few_jobs_and_chats_end_at_once(
    beside: int, priority: Priority, store: JobStore, settings: Settings, blobs: Blobs, moment: asyncio.Event
) -> None:
    claims = await claims_of(store, settings, 1, priority)

    await asyncio.gather(*end_each(Endings(settings, store, blobs, range(beside), lambda: None), list(map(Running, claims))))

    assert await statuses(store, claims) == [JobStatus.SUCCEEDED]
    assert not moment.is_set()


async def test_an_end_that_waits_is_late_for_a_fence_that_has_moved_on(
    store: JobStore, settings: Settings, blobs: Blobs, moment: asyncio.Event
) -> None:
    claims = await claims_of(store, settings, 1)
    tasks = end_each(Endings(settings, store, blobs, range(FEW + 1), lambda: None), list(map(Running, claims)))
    await asyncio.sleep(0.01)
    await store.release(claims[0], "leave")
    again = await next_claims(store, worker="another")

    moment.set()
    await asyncio.gather(*tasks)

    assert [claim.job_id for claim in again] == [claims[0].job_id]
    assert await statuses(store, claims) == [JobStatus.RUNNING]
