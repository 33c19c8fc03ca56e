"""arq: tasks on an event loop."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from arq import create_pool
from arq.connections import RedisSettings

from bench.queues.slots import IN_FLIGHT, JOBS, REDIS_URL, occupy_async


async def describe(context: dict[str, Any], job_id: str) -> None:
    """Stand for a job."""
    del context, job_id
    await occupy_async()


class WorkerSettings:
    """What ``arq`` reads."""

    functions: ClassVar = [describe]
    redis_settings = RedisSettings.from_dsn(REDIS_URL)
    max_jobs = IN_FLIGHT
    keep_result = 0


async def _fill() -> None:
    pool = await create_pool(WorkerSettings.redis_settings)
    for n in range(JOBS):
        await pool.enqueue_job("describe", f"job_{n}")


if __name__ == "__main__":
    asyncio.run(_fill())
