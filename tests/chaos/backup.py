"""``python -m tests.chaos --plan backup``: copy Redis's folder and the blobs under load, and go on elsewhere from the copy.

What was final when the copy began has to be there, unchanged, also after all the rest has run; nothing may have two ends there.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from sightline.receiver import Receiver
from sightline.stack import Stack
from tests.chaos.history import History, Seen
from tests.chaos.load import Load, wishes
from tests.chaos.rig import Rig
from tests.chaos.trial import say
from tests.chaos.upgrade import SETTINGS, finish

WORKERS = 2
BEFORE_S, AFTER_S = 20.0, 5.0
OWN = SETTINGS | {"SIGHTLINE_LEASE_S": "5"}


async def copy(stack: Stack, target: Path) -> None:
    """Copy what there is, as docs/operations.md says: files, Redis's log of writes while it is not rewritten, files again."""
    source = stack.folder
    await asyncio.to_thread(shutil.copytree, source / "blobs", target / "blobs", dirs_exist_ok=True)
    async with Redis(port=stack.redis_port, decode_responses=True) as redis:
        before = (await redis.config_get("auto-aof-rewrite-percentage"))["auto-aof-rewrite-percentage"]
        await redis.config_set("auto-aof-rewrite-percentage", 0)
        while (await redis.info("persistence"))["aof_rewrite_in_progress"]:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.1)
        await asyncio.to_thread(shutil.copytree, source / "redis", target / "redis")
        await redis.config_set("auto-aof-rewrite-percentage", before)
    await asyncio.to_thread(shutil.copytree, source / "blobs", target / "blobs", dirs_exist_ok=True)


def run_backup(folder: Path, *, rate: float, seed: int) -> dict[str, Any]:
    """Copy under load, restore, and compare; gives the figures.

    Args:
        folder: for data and logs.
        rate: jobs a second.
        seed: of the load.
    """
    first, history = Stack(folder / "first", settings=OWN, workers=WORKERS), History()
    with Receiver(first.secret) as receiver:
        with first:
            first.wait_ready()
            final = asyncio.run(_load_and_copy(first, receiver, history, folder / "second", rate, seed))
        second = Stack(folder / "second", settings=OWN, workers=WORKERS, secret=first.secret)
        with second:
            second.wait_ready()
            figures = asyncio.run(_compare(second, receiver, final))
    return {"accepted": len(history.submits), **figures}


async def _load_and_copy(
    stack: Stack, receiver: Receiver, history: History, target: Path, rate: float, seed: int
) -> dict[str, Seen]:
    load = Load(stack.url, receiver.url, history)
    playing = asyncio.create_task(load.play(wishes(seed, rate=rate, seconds=BEFORE_S + AFTER_S)))
    await asyncio.sleep(BEFORE_S)
    final = {seen.job_id: seen for seen in list(history.seen) if seen.end}
    await copy(stack, target)
    say(f"copied: {len(final)} jobs were final, {len(load.open)} open")
    await playing
    await load.finish(within_s=60)
    await load.close()
    return final


async def _compare(stack: Stack, receiver: Receiver, final: dict[str, Seen]) -> dict[str, Any]:
    rig, restored = Rig(stack, [f"worker-{n}" for n in range(WORKERS)]), History()
    load, until = Load(stack.url, receiver.url, restored), time.monotonic() + 60
    load._clients = {asyncio.create_task(asyncio.sleep(0))}  # nobody submits here
    await load.read_all()
    at_start = dict(restored.last)
    while time.monotonic() < until and (await rig.waiting() or await rig.running()):  # noqa: ASYNC110  # nobody tells
        await asyncio.sleep(0.2)
    await finish(rig, load, receiver, restored)
    ends = {job: seen.end for job, seen in restored.last.items()}
    failed = {seen.code or "" for seen in restored.last.values() if seen.status == "failed"}
    return {
        "final_at_backup": len(final),
        "missing": sorted(final.keys() - at_start.keys()),
        "changed": sorted(job for job, seen in final.items() if job in ends and ends[job] != seen.end),
        "changed_later": sorted(job for job, seen in at_start.items() if seen.end and ends.get(job) != seen.end),
        "not_final_when_restored": sum(not seen.end for seen in at_start.values()),
        "unfinished": sorted(job for job, end in ends.items() if end is None),
        "restored": len(ends),
        "failed_by_code": sorted(failed),
    }


def misses(figures: dict[str, Any]) -> list[str]:
    """Say what did not hold."""
    wrong = [f"{name}: {figures[name]}" for name in ("missing", "changed", "changed_later", "unfinished") if figures[name]]
    wrong += [f"failed: {figures['failed_by_code']}"] if set(figures["failed_by_code"]) - {"worker_lost"} else []
    return wrong if figures["final_at_backup"] else [*wrong, "no job was final when the copy began"]
