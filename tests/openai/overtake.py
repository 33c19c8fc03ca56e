"""Chats beside a batch of thousands of lines: somebody who waits in front of a chat must not notice it."""

from __future__ import annotations

import asyncio
import json
import random
import time
from pathlib import Path

from openai import AsyncOpenAI

from tests.chaos.rig import Rig
from tests.media import picture
from tests.openai.batch import line, start
from tests.openai.parts import DOUBLE, Figures, ask, client_of, percentile, rigged

SLOTS = 32
CHAT_S = 0.5
CHATS_PER_S = 5


async def overtake(folder: Path, *, n_bulk: int = 5000, n_chats: int = 100) -> Figures:
    """Ask chats at random moments, first alone, then beside batches whose lines take as long as a chat, or four times that.

    A chat holds a slot of the engine for half a second, so its latency alone is little more than that.
    """
    latencies, left = dict[str, list[float]](), dict[str, int]()
    async with rigged(folder, SIGHTLINE_MAX_NUM_SEQS=str(SLOTS), **DOUBLE) as rig, client_of(rig) as client:
        await _chats(client, 10)
        latencies["alone"] = await _chats(client, n_chats)
        for bulk_s in (CHAT_S, 4 * CHAT_S):
            name = f"beside {bulk_s:g} s"
            batch_id = await start(client, (line(i, f"!slow {bulk_s}") for i in range(n_bulk)))
            await _engine_full(rig)
            latencies[name] = await _chats(client, n_chats)
            counts = (await client.batches.cancel(batch_id)).request_counts
            assert counts
            left[name] = counts.total - counts.completed
            await _engine_idle(rig)
    p50, p95 = ({name: percentile(values, share) for name, values in latencies.items()} for share in (0.5, 0.95))
    ratios = {name: p95[name] / p95["alone"] for name in left}
    return {
        "slots": SLOTS,
        "chat_s": CHAT_S,
        "chats_each": n_chats,
        "bulk_lines": n_bulk,
        "bulk_lines_left_at_the_end": left,
        "p50_ms": {name: round(value * 1000) for name, value in p50.items()},
        "p95_ms": {name: round(value * 1000) for name, value in p95.items()},
        "p95_ratio": {name: round(ratio, 2) for name, ratio in ratios.items()},
        "ok": all(ratio <= 2 for ratio in ratios.values()) and all(left.values()),
    }


async def _chats(client: AsyncOpenAI, n: int) -> list[float]:
    """Ask ``n`` chats at random moments; gives how long each took."""
    rng, latencies = random.Random(1), list[float]()

    async def chat() -> None:
        began = time.monotonic()
        await client.chat.completions.create(model="qwen-vl", messages=ask(f"!slow {CHAT_S}", picture()))
        latencies.append(time.monotonic() - began)

    async with asyncio.TaskGroup() as group:
        for _ in range(n):
            group.create_task(chat())
            await asyncio.sleep(rng.expovariate(CHATS_PER_S))
    return latencies


async def _engine_full(rig: Rig) -> None:
    await _engine_runs(rig, at_least=SLOTS * 3 // 4)
    await asyncio.sleep(2)  # and let it settle


async def _engine_idle(rig: Rig) -> None:
    await _engine_runs(rig, at_most=0)


async def _engine_runs(rig: Rig, *, at_least: int = 0, at_most: int = SLOTS) -> None:
    async with asyncio.timeout(120):
        while not at_least <= await _running(rig) <= at_most:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.2)


async def _running(rig: Rig) -> int:
    (name,) = await rig.redis.keys("sightline:{sightline}:worker:*")
    running: int = json.loads(await rig.redis.get(name) or "{}").get("engine_running", 0)
    return running
