"""Batches whose runners are killed, stopped for longer than their leases, and restarted: every line is told of once."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

from shared.aio import cancel_all
from tests.chaos.rig import Rig
from tests.openai.batch import line, rows_of, said, start, wait_for_end
from tests.openai.parts import DOUBLE, Figures, client_of, plain, rigged

RUNNERS = ("batches", "batches-1")
FAULTS = ("kill", "stop", "restart")
LEASE_S = 3.0  #: short, so that there are many changes of runners in a minute
N_ENDED = 2  #: batches that are ended from outside, one cancelled and one expired
NEVER_S = 600.0  #: the last line of those: no such batch completes while its runner is stopped and counts nothing
LAST_JOBS_S = 10.0  #: what a worker has to hear of a cancelled job


async def runners(
    folder: Path,
    *,
    n: int = 2000,
    n_batches: int = 6,
    fault_every_s: float = 5,
    faults_each: int = 1000,
    slow_s: float = 1,
) -> Figures:
    """Run ``n`` lines in some batches, one cancelled and one expired on the way; each runner meets one fault after another."""
    faults, counts, jobs, wrong, doubled, missing = Counter[str](), dict[str, Any](), 0, 0, 0, 0
    settings = {"SIGHTLINE_MAX_NUM_SEQS": "16", "SIGHTLINE_LEASE_S": str(LEASE_S), **DOUBLE}
    async with rigged(folder, workers=2, runners=2, **settings) as rig, client_of(rig) as client:
        began = time.monotonic()
        numbers = [range(k, n, n_batches) for k in range(n_batches)]
        ids = [
            await start(client, (line(i, f"!slow {NEVER_S if k < N_ENDED and i == mine[-1] else slow_s}") for i in mine))
            for k, mine in enumerate(numbers)
        ]
        orders = {name: itertools.islice(itertools.cycle(FAULTS), k, k + faults_each) for k, name in enumerate(RUNNERS)}
        troubles = {asyncio.create_task(_trouble(rig, name, order, faults, fault_every_s)) for name, order in orders.items()}
        stops = {asyncio.create_task(_cancel(client, ids[0], n)), asyncio.create_task(_expire(rig, client, ids[1], n))}
        ended = [await wait_for_end(client, batch_id) for batch_id in ids]
        seconds = round(time.monotonic() - began)
        await cancel_all(troubles | stops)
        running_on = await _running_on(rig)
        for mine, batch in zip(numbers, ended, strict=True):
            output, errors = await rows_of(client, batch.output_file_id), await rows_of(client, batch.error_file_id)
            told = Counter(row["custom_id"] for row in [*output, *errors])
            doubled += sum(times - 1 for times in told.values())
            missing += len({f"c{i}" for i in mine} - set(told)) + len(set(told) - {f"c{i}" for i in mine})
            wrong += sum(said(row) != _expected(int(row["custom_id"][1:]), slow_s) for row in output)
            counts[batch.status] = counts.get(batch.status, 0) + 1
            counts[f"{batch.status}_lines"] = counts.get(f"{batch.status}_lines", 0) + len(output)
        attempts = [
            await rig.insist(rig.redis.hget, key, "attempt") async for key in rig.redis.scan_iter("sightline:{sightline}:job:*")
        ]
        jobs = len(attempts)
        taken_up = sum(rig.stack.log_path(name).read_text().count("batch.lease_lost") for name in RUNNERS)
    return {
        "lines": n,
        "batches": n_batches,
        "seconds": seconds,
        "faults": dict(faults),
        "leases_lost_alive": taken_up,
        "ends": counts,
        "lines_missing": missing,
        "lines_doubled": doubled,
        "lines_wrong": wrong,
        "jobs": jobs,
        "jobs_that_ran_again": sum(int(attempt or 0) > 1 for attempt in attempts),
        "jobs_running_on": running_on,
        "ok": not (missing or doubled or wrong or running_on)
        and {name: counts.get(name) for name in ("completed", "cancelled", "expired")}
        == {"completed": n_batches - N_ENDED, "cancelled": 1, "expired": 1},
    }


def _expected(number: int, slow_s: float) -> str:
    return f"{plain(number)[1]} !slow {slow_s} 图{number}"


async def _trouble(rig: Rig, name: str, order: Iterator[str], faults: Counter[str], every_s: float) -> None:
    """Hit a runner again and again, each time in another way."""
    for fault in order:
        await asyncio.sleep(every_s)
        if fault == "kill":
            await rig.kill(name)
            rig.stack.respawn(name)
        elif fault == "stop":
            rig.signal(name, signal.SIGSTOP)
            try:
                await asyncio.sleep(LEASE_S + 1)
            finally:
                rig.signal(name, signal.SIGCONT)
        else:
            rig.signal(name, signal.SIGTERM)
            await rig.gone(name)
            rig.stack.respawn(name)
        faults[fault] += 1


async def _cancel(client: AsyncOpenAI, batch_id: str, n: int) -> None:
    await _some_done(client, batch_id, n)
    await client.batches.cancel(batch_id)


async def _expire(rig: Rig, client: AsyncOpenAI, batch_id: str, n: int) -> None:
    await _some_done(client, batch_id, n)
    seconds, _ = await rig.redis.time()
    await rig.redis.hset(f"sightline:{{sightline}}:batch:{batch_id}", "expires_at", str(seconds))  # type: ignore[misc]


async def _some_done(client: AsyncOpenAI, batch_id: str, n: int) -> None:
    while (await client.batches.retrieve(batch_id)).request_counts.completed < n // 20:  # noqa: ASYNC110
        await asyncio.sleep(0.1)


async def _running_on(rig: Rig) -> int:
    """Count the jobs that wait or run although their batches have ended."""
    until = time.monotonic() + LAST_JOBS_S
    while True:
        left = int(await rig.redis.hget("sightline:{sightline}:totals", "queued") or 0)  # type: ignore[misc]
        for worker in await rig.redis.zrange("sightline:{sightline}:workers", 0, -1):
            left += int(await rig.redis.hlen(f"sightline:{{sightline}}:held:{worker}"))  # type: ignore[misc]
        if not left or time.monotonic() > until:
            return left
        await asyncio.sleep(0.1)
