"""Chats beside jobs whose pictures come from slow hosts: somebody who waits in front of a chat must not notice them."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import socket
import time
from contextlib import suppress
from pathlib import Path

import httpx
from openai import AsyncOpenAI

from tests.chaos.rig import Rig
from tests.media import picture
from tests.openai.parts import DOUBLE, Figures, ask, client_of, percentile, rigged

CHATS_PER_S = 10
#: Eleven kilobytes a second: just beyond the least rate, so that a fetch is given up only at its time-out, after all chats.
PIECE, EVERY_S = bytes(5500), 0.5
FILE_BYTES = 10 * 2**20
SETTINGS = {"SIGHTLINE_ALLOW_NETWORKS": "127.0.0.0/8", "SIGHTLINE_FETCH_TIMEOUT_S": "120", **DOUBLE}


async def slow_hosts(folder: Path, *, n_jobs: int = 400, n_chats: int = 200) -> Figures:
    """Ask chats at random moments, with a picture inline or at a prompt host; first alone, then beside the slow jobs."""
    latencies, in_flight = dict[str, list[float]](), list[int]()
    with socket.create_server(("127.0.0.1", 0), backlog=2000) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        host = multiprocessing.get_context("fork").Process(target=_run_host, args=(listener,), daemon=True)
        host.start()
        try:
            async with rigged(folder, **SETTINGS) as rig, client_of(rig) as client:
                await _chats(client, 20, url)
                latencies["alone"] = await _chats(client, n_chats, url)
                async with httpx.AsyncClient(base_url=rig.stack.url, timeout=60) as http:
                    for _ in range(n_jobs):
                        body = {"prompt": "x", "images": [f"{url}/slow"]}
                        (await http.post("/v1/jobs", json=body)).raise_for_status()
                    await asyncio.sleep(2)
                    in_flight.append(await _in_flight(rig))
                    latencies["beside"] = await _chats(client, n_chats, url)
                    in_flight.append(await _in_flight(rig))
        finally:
            host.kill()
            host.join()
    p50, p95 = ({name: percentile(values, share) for name, values in latencies.items()} for share in (0.5, 0.95))
    ratio = p95["beside"] / p95["alone"]
    return {
        "slow_jobs": n_jobs,
        "chats_each": n_chats,
        "p50_ms": {name: round(value * 1000) for name, value in p50.items()},
        "p95_ms": {name: round(value * 1000) for name, value in p95.items()},
        "p95_ratio": round(ratio, 2),
        "jobs_in_flight": in_flight,
        "ok": ratio <= 2 and min(in_flight) >= n_jobs / 4,
    }


async def _chats(client: AsyncOpenAI, n: int, url: str) -> list[float]:
    """Ask ``n`` chats at random moments; gives how long each took."""
    rng, latencies = random.Random(1), list[float]()

    async def chat(i: int) -> None:
        began = time.monotonic()
        messages = ask("x", picture()) if i % 2 else ask("x")
        if not i % 2:
            messages[0]["content"].insert(0, {"type": "image_url", "image_url": {"url": f"{url}/prompt"}})
        await client.chat.completions.create(model="qwen-vl", messages=messages)
        latencies.append(time.monotonic() - began)

    async with asyncio.TaskGroup() as group:
        for i in range(n):
            group.create_task(chat(i))
            await asyncio.sleep(rng.expovariate(CHATS_PER_S))
    return latencies


async def _in_flight(rig: Rig) -> int:
    (name,) = await rig.redis.keys("sightline:{sightline}:worker:*")
    jobs: int = json.loads(await rig.redis.get(name) or "{}").get("jobs_in_flight", 0)
    return jobs


def _run_host(listener: socket.socket) -> None:
    asyncio.run(_serve(listener))


async def _serve(listener: socket.socket) -> None:
    prompt = picture()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            asked = await reader.readuntil(b"\r\n\r\n")
            is_slow = asked.startswith(b"GET /slow")
            n_bytes = FILE_BYTES if is_slow else len(prompt)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % n_bytes)
            if not is_slow:
                writer.write(prompt)
            while is_slow:
                writer.write(PIECE)
                await writer.drain()
                await asyncio.sleep(EVERY_S)
        writer.close()

    async with await asyncio.start_server(answer, sock=listener):
        await asyncio.Event().wait()
