"""Three classes of jobs: the urgent overtake, none starves, and batches never fill the engine."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shared.jobs import JobRequest, JobStatus, Priority
from shared.settings import Settings
from shared.store.ids import new_id
from shared.store.jobs import JobStore
from tests.claims import next_claims
from tests.integration.conftest import Worker, until

INTERACTIVE, DEFAULT, BULK = Priority


async def submit(store: JobStore, settings: Settings, priority: Priority, owner: str = "me", prompt: str = "x") -> str:
    request = JobRequest.model_validate({"messages": [{"role": "user", "content": prompt}]})
    job_id, _ = await store.submit(request, settings, owner=owner, job_id=new_id("job"), priority=priority)
    return job_id


async def classes(store: JobStore, n: int, **places: int) -> list[Priority]:
    """Claim jobs as a worker does, and name the classes in the order in which they came."""
    return [claim.priority for claim in await next_claims(store, n, **places)]


@pytest.mark.parametrize("at_once", [1, 3, 16])
async def test_the_urgent_overtake_and_none_starves(settings: Settings, store: JobStore, at_once: int) -> None:
    for priority in (BULK, DEFAULT, INTERACTIVE):
        for _ in range(16):
            await submit(store, settings, priority)

    order: list[Priority] = []
    while len(order) < 16:
        order += await classes(store, min(at_once, 16 - len(order)))

    assert order == 2 * [INTERACTIVE, INTERACTIVE, INTERACTIVE, DEFAULT, INTERACTIVE, INTERACTIVE, INTERACTIVE, BULK]


async def test_bulk_jobs_have_all_the_room_when_nothing_else_waits(settings: Settings, store: JobStore) -> None:
    for _ in range(8):
        await submit(store, settings, BULK)

    assert await classes(store, 9) == [BULK] * 8


async def test_a_worker_full_of_bulk_jobs_takes_only_others(settings: Settings, store: JobStore) -> None:
    for priority in (BULK, DEFAULT, INTERACTIVE):
        for _ in range(3):
            await submit(store, settings, priority)

    assert sorted(await classes(store, 9, n_bulk=0)) == sorted(3 * [DEFAULT] + 3 * [INTERACTIVE])
    assert await classes(store, 9, n_default=0, n_bulk=2) == 2 * [BULK]


async def test_batches_never_fill_the_engine(settings: Settings, store: JobStore) -> None:
    settings = settings.model_copy(update={"max_num_seqs": 8})
    async with Worker(settings).running() as worker:
        for _ in range(12):
            await submit(store, settings, BULK, prompt="!slow 60")
        await until(lambda: _is(worker.engine.running == 7))
        chat = await submit(store, settings, INTERACTIVE)

        assert (await until(lambda: ended(store, chat))).status is JobStatus.SUCCEEDED
        assert worker.engine.peak == 8


async def _is(value: bool) -> bool:  # noqa: FBT001
    return value


async def test_every_class_runs(settings: Settings, store: JobStore, worker: Worker) -> None:
    assert worker.crashes == []
    ids = [await submit(store, settings, priority) for priority in Priority]

    for job in await asyncio.gather(*(until(lambda job_id=job_id: ended(store, job_id)) for job_id in ids)):
        assert job.status is JobStatus.SUCCEEDED


async def ended(store: JobStore, job_id: str) -> Any:
    job = await store.get(job_id)
    return job if job.status.is_final else None
