"""What a job takes of Redis's memory: a budget, which whoever keeps more of a job has to raise on purpose."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from shared.jobs import JobRequest, JobStatus, Stage
from shared.messages import short_form
from shared.settings import Settings
from shared.store.ids import new_id
from shared.store.jobs import JobStore
from tests.claims import next_claims
from tests.integration.test_job_store import OUTPUT

N = 500
REQUEST = JobRequest(messages=short_form("请用中文描述一下这张图片", ["file-0198c0de0198c0de0198c0de0198c0de"]))
#: Bytes for each job, about a tenth more than was measured.
QUEUED_BYTES, ENDED_BYTES = 1_640, 1_790


async def test_a_job_keeps_to_its_budget(settings: Settings, store: JobStore, redis: Redis) -> None:
    ids = [new_id("job") for _ in range(N)]

    async def submit(job_id: str) -> None:
        await store.submit(REQUEST, settings, owner="local", job_id=job_id)

    async def end(_: str) -> None:
        (claim,) = await next_claims(store)
        await store.set_stages("w", [(claim, Stage.GENERATING)])
        await store.complete(claim, JobStatus.SUCCEEDED, output=OUTPUT, error=None)

    async def used() -> int:
        return int((await redis.info("memory"))["used_memory_dataset"])

    await submit(first := new_id("job"))
    await end(first)  # the scripts are loaded, once
    begin = await used()
    await asyncio.gather(*map(submit, ids))
    queued = (await used() - begin) / N
    await asyncio.gather(*map(end, ids))
    ended = (await used() - begin) / N

    assert queued < QUEUED_BYTES
    assert ended < ENDED_BYTES
