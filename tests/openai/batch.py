"""A batch whose workers, gateway and runner die: every line is answered once."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from openai import APIError, AsyncOpenAI

from shared.aio import cancel_all
from tests.chaos.rig import Rig
from tests.openai.parts import DOUBLE, Figures, Memory, ask, client_of, plain, rigged

ENDED = {"completed", "failed", "expired", "cancelled"}


async def batch(
    folder: Path,
    *,
    n: int = 2000,
    kill_every_s: float = 10,
    worker_kills: int = 1000,
    gateway_kills_at: tuple[float, ...] = (0.3, 0.6),
) -> Figures:
    """Run ``n`` pictures through two workers, kill one of them every ``kill_every_s``, and gateway and runner on the way."""
    memory, killed = Memory(), Counter[str]()
    async with rigged(folder, workers=2, SIGHTLINE_MAX_NUM_SEQS="16", **DOUBLE) as rig, client_of(rig) as client:
        idle, began = memory.look(rig), time.monotonic()
        batch_id = await start(client, (line(i) for i in range(n)))
        aside = {
            asyncio.create_task(memory.watch(rig)),
            asyncio.create_task(_kill_workers(rig, killed, every_s=kill_every_s, most=worker_kills)),
            asyncio.create_task(
                _kill_gateway_and_runner(rig, client, batch_id, killed, [share * n for share in gateway_kills_at])
            ),
        }
        ended = await wait_for_end(client, batch_id)
        seconds = round(time.monotonic() - began)
        await cancel_all(aside)
        rows = await insist(lambda: rows_of(client, ended.output_file_id))
        errors = await insist(lambda: rows_of(client, ended.error_file_id))
        attempts = [
            await rig.insist(rig.redis.hget, key, "attempt") async for key in rig.redis.scan_iter("sightline:{sightline}:job:*")
        ]
    ids = Counter(row["custom_id"] for row in rows)
    wrong = [row["custom_id"] for row in rows if said(row) != _expected(int(row["custom_id"].removeprefix("c")))]
    return {
        "lines": n,
        "seconds": seconds,
        "worker_kills": killed["worker"],
        "jobs_in_killed_workers": killed["jobs"],
        "gateway_kills": killed["gateway"],
        "runner_kills": killed["batches"],
        "status": ended.status,
        "counts": ended.request_counts.model_dump(),
        "output_lines": len(rows),
        "custom_ids": len(ids),
        "error_lines": len(errors),
        "wrong": len(wrong),
        "in_the_order_of_the_input": [row["custom_id"] for row in rows] == [f"c{i}" for i in range(n)],
        "jobs_that_ran_again": sum(int(attempt or 0) > 1 for attempt in attempts),
        "idle_mib": idle,
        "peak_mib": memory.alone,
        "peak_mib_with_children": memory.together,
        "ok": len(rows) == n and set(ids) == {f"c{i}" for i in range(n)} and not wrong and not errors,
    }


def line(number: int, prompt: str = "!slow 1") -> bytes:
    """Make a line of the input, whose picture and prompt both tell its number."""
    body = {"model": "qwen-vl", "messages": ask(f"{prompt} 图{number}", plain(number)[0])}
    row = {"custom_id": f"c{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


async def start(client: AsyncOpenAI, lines: Any) -> str:
    """Upload the lines and start a batch."""
    file = await client.files.create(file=("in.jsonl", b"".join(lines)), purpose="batch")
    batch = await client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    return batch.id


async def insist(ask_for: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Ask a gateway that may be down just now."""
    while True:
        with suppress(APIError):
            return await ask_for()
        await asyncio.sleep(0.2)


async def wait_for_end(client: AsyncOpenAI, batch_id: str) -> Any:
    while (now := await insist(lambda: client.batches.retrieve(batch_id))).status not in ENDED:  # noqa: ASYNC110
        await asyncio.sleep(0.5)
    return now


async def _kill_workers(rig: Rig, killed: Counter[str], *, every_s: float, most: int) -> None:
    """Kill the workers in turn; each comes back while the next one works."""
    async with asyncio.TaskGroup() as group:
        while killed["worker"] < most:
            await asyncio.sleep(every_s)
            name = rig.workers[killed["worker"] % len(rig.workers)]
            await rig.up(name)
            killed["jobs"] += len(await rig.victims(name))
            await rig.kill(name)
            killed["worker"] += 1
            group.create_task(rig.back(name))


async def _kill_gateway_and_runner(
    rig: Rig, client: AsyncOpenAI, batch_id: str, killed: Counter[str], marks: list[float]
) -> None:
    """Kill the gateway and the runner each time when the batch has got so far."""
    for mark in marks:
        while (await insist(lambda: client.batches.retrieve(batch_id))).request_counts.completed < mark:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        for name in ("gateway", "batches"):  # both are gone for a moment, else the batch may end while the first one starts
            await rig.kill(name)
            killed[name] += 1
        for name in ("gateway", "batches"):
            await rig.back(name)


async def rows_of(client: AsyncOpenAI, file_id: str | None) -> list[Any]:
    """Read a file of results."""
    return [json.loads(row) for row in (await client.files.content(file_id)).text.splitlines()] if file_id else []


def said(row: Any) -> str:
    """Give the text of an answer."""
    text: str = row["response"]["body"]["choices"][0]["message"]["content"]
    return text


def _expected(number: int) -> str:
    return f"{plain(number)[1]} !slow 1 图{number}"
