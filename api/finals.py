"""Waiting for jobs to end: one subscription serves every request that waits."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from shared.jobs import Job
from shared.news import News
from shared.store import JobStore

#: News can be missed while Redis reconnects, so a waiter looks at the record this often all the same.
LOOK_EVERY_S = 5.0


class Finals:
    """Gives jobs, and waits for their ends."""

    def __init__(self, store: JobStore) -> None:
        """Hear of ends over the store's channel."""
        self._store = store
        self._news = News(store.redis, store.finals_channel)

    async def wait(self, job_id: str, *, owner: str, wait_s: float) -> Job:
        """Give the job once it is final, or as it stands after ``wait_s`` seconds.

        Raises:
            NotFound: no such job.
            Gone: it is past its retention.
        """
        job = await self._store.get(job_id, owner=owner)
        if job.status.is_final or wait_s <= 0:
            return job
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        async with self._news.about(job_id) as news:
            while True:
                news.clear()
                job = await self._store.get(job_id, owner=owner)  # once more: it may have ended before anybody listened
                left_s = until - loop.time()
                if job.status.is_final or left_s <= 0:
                    return job
                with suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), min(left_s, LOOK_EVERY_S))
