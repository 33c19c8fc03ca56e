"""taskiq: tasks on an event loop, its broker on Redis streams, which acknowledges."""

from __future__ import annotations

import asyncio

from taskiq_redis import RedisStreamBroker

from bench.queues.slots import JOBS, REDIS_URL, occupy_async

broker = RedisStreamBroker(REDIS_URL)


@broker.task(task_name="describe")
async def describe(job_id: str) -> None:
    """Stand for a job."""
    del job_id
    await occupy_async()


async def _fill() -> None:
    await broker.startup()
    for n in range(JOBS):
        await describe.kiq(f"job_{n}")
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(_fill())
