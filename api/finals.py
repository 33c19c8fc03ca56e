"""Waiting for jobs to end: one subscription serves every request that waits."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress

import structlog
from redis.exceptions import RedisError

from shared.jobs import Job
from shared.store import JobStore

log = structlog.get_logger()

#: News can be missed while Redis reconnects, so a waiter looks at the record this often all the same.
LOOK_EVERY_S = 5.0


class Finals:
    """Wakes waiters when their job ends."""

    def __init__(self, store: JobStore) -> None:
        """Use the store's channel; :meth:`listen` must run."""
        self._store = store
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)

    async def listen(self) -> None:
        """Hear of ended jobs until cancelled."""
        while True:
            with suppress(RedisError, OSError):
                async for job_id in self._store.listen("finals"):
                    for event in self._waiting.get(job_id, ()):
                        event.set()
            log.warning("store.unreachable", chore="finals")
            await asyncio.sleep(1.0)

    async def wait(self, job_id: str, *, owner: str, wait_s: float) -> Job:
        """Give the job once it is final, or as it stands after ``wait_s`` seconds.

        Raises:
            NotFound: no such job.
            Gone: it is past its retention.
        """
        loop = asyncio.get_running_loop()
        until, event = loop.time() + wait_s, asyncio.Event()
        self._waiting[job_id].add(event)
        try:
            while True:
                job = await self._store.get(job_id, owner=owner)
                left_s = until - loop.time()
                if job.status.is_final or left_s <= 0:
                    return job
                with suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), min(left_s, LOOK_EVERY_S))
        finally:
            self._waiting[job_id].discard(event)
            if not self._waiting[job_id]:
                del self._waiting[job_id]
