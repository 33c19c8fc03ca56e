"""Waiting for jobs to end: one subscription serves every request that waits."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from shared.jobs import Job
from shared.store.jobs import JobStore


class JobWaiter:
    """Gives jobs, and waits for their ends."""

    def __init__(self, store: JobStore) -> None:
        """Hear of ends over the store's channel."""
        self._store = store

    async def wait(self, job_id: str, *, owner: str, wait_s: float) -> Job:
        """Give the job once it is final, or as it stands after ``wait_s`` seconds.

        Raises:
            NotFound: no such job.
            Gone: it is past its retention.
        """
        job = await self._store.get(job_id, owner=owner)
        if job.status.is_final or wait_s <= 0:
            return job
        with self._store.end_of(job_id) as news, suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while True:
                    news.clear()
                    job = await self._store.get(job_id, owner=owner)  # once more: it may have ended before anybody listened
                    if job.status.is_final:
                        return job
                    await news.wait()
        return await self._store.get(job_id, owner=owner)
