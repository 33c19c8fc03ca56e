"""What a job costs in Redis, and that nothing of it stays: 50,000 jobs through the real scripts on an embedded Valkey.

``.venv/bin/python -m bench.retention`` submits, claims and ends them in rounds; each is kept for seconds, then purged. It
prints a line for each round and one JSON line: bytes for a queued and an ended job, and the memory after each round.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

from redis.asyncio import Redis

from shared.errors import Gone
from shared.jobs import EngineInfo, JobRequest, JobStatus, Output, Usage
from shared.messages import short_form
from shared.settings import Settings
from shared.store.connection import connect
from shared.store.ids import new_id
from shared.store.jobs import JobStore
from sightline.stack import Stack
from tests.claims import claim_job

N_JOBS = 50_000
N_ROUNDS = 10
AT_ONCE = 50
KEEP_S = 6  #: longer than a round takes
#: A record as a client makes it: a picture stored as a file, a Chinese prompt, an answer of a hundred characters.
REQUEST = JobRequest(messages=short_form("请用中文描述一下这张图片", ["file-0198c0de0198c0de0198c0de0198c0de"]))
OUTPUT = Output(
    text="图中有一个红色的圆和一个蓝色的方块，背景是白色的。" * 4,
    finish_reason="stop",
    usage=Usage(prompt_tokens=1100, vision_tokens=1054, output_tokens=64),
    engine=EngineInfo(name="vllm", version="0.32.0", model="qwen-vl"),
    timings_ms={"queue": 12, "fetch": 30, "decode": 25, "render": 20, "generate": 900, "total": 1000},
)


async def bytes_used(redis: Redis) -> int:
    """Say how much memory Redis uses for data; its buffers and scripts are in it, too."""
    return cast("int", (await redis.info("memory"))["used_memory"])


async def each(ids: list[str], do: Callable[[str], Awaitable[None]]) -> None:
    """Do something for every id, some at a time."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(job_id: str) -> None:
        async with slots:
            await do(job_id)

    await asyncio.gather(*map(one, ids))


async def measure(settings: Settings) -> dict[str, object]:
    """Run all rounds; gives the figures."""
    async with connect(settings) as redis:
        store = JobStore(redis)

        async def submit(job_id: str) -> None:
            await store.submit(REQUEST, settings, owner="local", job_id=job_id)

        async def end(job_id: str) -> None:
            claim = await claim_job(store, job_id, worker="w", lease_s=60)
            assert claim is not None  # noqa: S101
            await store.complete(claim, JobStatus.SUCCEEDED, output=OUTPUT, error=None)

        n, began, after = N_JOBS // N_ROUNDS, time.monotonic(), []
        queued = ended = 0.0
        for _ in range(N_ROUNDS):
            ids, before = [new_id("job") for _ in range(n)], await bytes_used(redis)
            await each(ids, submit)
            queued = (await bytes_used(redis) - before) / n
            await each(ids, end)
            ended = max(ended, (await bytes_used(redis) - before) / n)
            while await redis.zcard("sightline:{sightline}:retained"):
                await store.purge_expired_jobs()
                await asyncio.sleep(0.05)
            await redis.memory_purge()
            after.append(await bytes_used(redis))
            print(f"{len(after) * n} jobs: {after[-1] / 2**20:.1f} MiB")
            try:
                await store.get(ids[-1], owner="local")
            except Gone:
                continue
            sys.exit("a job past its retention is not gone")
        left = await redis.dbsize()
    return {
        "jobs": N_JOBS,
        "seconds": round(time.monotonic() - began),
        "bytes_per_queued_job": round(queued),
        "bytes_per_ended_job": round(ended),
        "mib_after_round": [round(used / 2**20, 2) for used in after],
        "bytes_left_per_job": round((after[-1] - after[0]) / (N_JOBS - n), 2),
        "keys_left": left,
    }


def main() -> None:
    """Start a Valkey, measure, stop it."""
    folder = Path(tempfile.mkdtemp(prefix="sightline-retention-"))
    (folder / "logs").mkdir()
    stack = Stack(folder)
    stack.spawn("redis", "sightline.embedded", str(stack.redis_port), str(folder / "redis"))
    try:
        settings = Settings(redis_url=stack.environment["SIGHTLINE_REDIS_URL"], result_ttl_s=KEEP_S)
        print(json.dumps(asyncio.run(measure(settings))))
    finally:
        stack.stop()


if __name__ == "__main__":
    main()
