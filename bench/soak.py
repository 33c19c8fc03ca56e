"""Whether anything grows: mixed load with readers who leave in every way, then silence: ``python -m bench.soak --minutes 30``.

Jobs with pictures inline and uploaded, chats, streams, failures, cancels, groups, webhooks and batches run beside leavers
of every kind, with an engine double. Before the load and after it, when all that was kept for a minute is gone, memory,
files, threads and children of each part are counted, and Redis's clients and keys; batches and their files are kept for days,
and are not. The exit code is 1 where something did not come back to within 5 %.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import itertools
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
from redis import Redis

from demo.scenes import scene
from shared.store.key_names import PREFIX
from sightline.receiver import Receiver
from sightline.stack import Stack
from tests.leavers import KINDS, STREAMS, WAYS, leave, request_of

KEPT_S = 60  #: outputs and uploads; what is left after a run has to be gone by then
QUIET_S = 150.0
WARM_S = 120.0  #: of the same load, before anything is counted
SETTINGS = {
    "SIGHTLINE_ENGINE": "tests.double:DoubleEngine",
    "SIGHTLINE_ALLOW_NETWORKS": "127.0.0.0/8",
    "SIGHTLINE_RESULT_TTL_S": str(KEPT_S),
    "SIGHTLINE_UPLOAD_TTL_S": str(KEPT_S),
    "SIGHTLINE_MIN_FREE_BYTES": "0",
}
#: Kinds of keys that are kept for longer than the silence lasts: batches and their files, by contract.
KEPT_LONGER = {"batch", "batches", "upload", "uploads", "uploads_due"}
MOST_GROWTH_PERCENT = 5
SLACK = 3  #: of what is counted in a few: a connection more in a pool
PAUSE_S = 0.05  #: of each client, between two requests: three quarters of two cores
N_CLIENTS = 6

Counts = dict[str, dict[str, int]]


class Load:
    """Clients that do what clients do, until they are stopped."""

    def __init__(self, stack: Stack, hook: str) -> None:
        """Take the service, and where webhooks go."""
        self._stack, self._hook = stack, hook
        self.done = Counter[str]()
        self._seeds = itertools.count(70_000_000)
        self._random = random.Random(1)

    async def run(self, seconds: float) -> None:
        """Load the service for so long."""
        until = time.monotonic() + seconds
        async with httpx.AsyncClient(base_url=self._stack.url, timeout=120) as http:
            await asyncio.gather(*(self._client(http, until) for _ in range(N_CLIENTS)), self._leavers(http, until))

    async def _client(self, http: httpx.AsyncClient, until: float) -> None:
        steps: list[Callable[[httpx.AsyncClient], Awaitable[None]]] = [
            *(self._job, self._upload, self._chat, self._stream, self._failure, self._cancel, self._group, self._batch)
        ]
        while time.monotonic() < until:
            step = self._random.choice(steps)
            with suppress(httpx.TransportError):
                await step(http)
            self.done[step.__name__.strip("_")] += 1
            await asyncio.sleep(PAUSE_S)

    async def _leavers(self, http: httpx.AsyncClient, until: float) -> None:
        body = {"model": "qwen-vl", "input": "!slow 20", "background": True}
        for kind, way in itertools.cycle(itertools.product(KINDS, WAYS)):
            if time.monotonic() > until:
                return
            waiting = str((await http.post("/v1/responses", json=body)).json()["id"])
            ids = {"JOB": waiting.replace("resp_", "job_"), "RESP": waiting}
            with suppress(OSError, asyncio.IncompleteReadError):
                await leave(("127.0.0.1", self._stack.port), request_of(kind, ids), way, is_stream=kind in STREAMS)
            await http.post(f"/v1/responses/{waiting}/cancel")
            self.done["leaver"] += 1

    def _picture(self) -> bytes:
        return scene(next(self._seeds)).png()

    def _inline(self) -> str:
        return f"data:image/png;base64,{base64.b64encode(self._picture()).decode()}"

    async def _job(self, http: httpx.AsyncClient, prompt: str = "这是什么?", **more: object) -> None:
        body = {"prompt": prompt, "images": [self._inline()], "webhook": {"url": self._hook}, **more}
        await http.post("/v1/jobs", json=body, headers={"prefer": "wait=30"})

    async def _failure(self, http: httpx.AsyncClient) -> None:
        await self._job(http, "!long")

    async def _group(self, http: httpx.AsyncClient) -> None:
        group = f"g{next(self._seeds)}"
        await asyncio.gather(*(self._job(http, group=group) for _ in range(4)))
        await http.post(f"/v1/groups/{group}", json={"webhook": {"url": self._hook}})
        await http.post("/v1/jobs/cancel", json={"filter": {"group": group}})

    async def _upload(self, http: httpx.AsyncClient) -> None:
        file = (await http.post("/v1/files", files={"file": ("a.png", self._picture())})).json()["id"]
        await http.post("/v1/jobs", json={"prompt": "x", "images": [file]}, headers={"prefer": "wait=30"})

    async def _chat(self, http: httpx.AsyncClient, *, stream: bool = False) -> None:
        content = [{"type": "image_url", "image_url": {"url": self._inline()}}, {"type": "text", "text": "!speak 0.01 a b c"}]
        body = {"model": "qwen-vl", "messages": [{"role": "user", "content": content}], "stream": stream}
        await http.post("/v1/chat/completions", json=body)

    async def _stream(self, http: httpx.AsyncClient) -> None:
        await self._chat(http, stream=True)

    async def _cancel(self, http: httpx.AsyncClient) -> None:
        job = (await http.post("/v1/jobs", json={"prompt": "!slow 60", "images": [self._inline()]})).json()
        await http.post(f"/v1/jobs/{job['id']}/cancel")

    async def _batch(self, http: httpx.AsyncClient) -> None:
        body = {"model": "qwen-vl", "messages": [{"role": "user", "content": "hello"}]}
        line = {"method": "POST", "url": "/v1/chat/completions", "body": body}
        text = "\n".join(json.dumps(line | {"custom_id": str(n)}) for n in range(8)).encode()
        sent = {"file": ("b.jsonl", io.BytesIO(text))}
        file = (await http.post("/v1/files", files=sent, data={"purpose": "batch"})).json()["id"]
        batch = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        await http.post("/v1/batches", json=batch)


def count(stack: Stack, redis: Redis) -> Counts:
    """Count what each part holds, and what Redis does."""
    found: Counts = {}
    for name, process in stack.processes.items():
        own = psutil.Process(process.pid)
        family = [own, *own.children(recursive=True)]
        found[name] = {
            "rss_mb": sum(one.memory_info().rss for one in family) // 2**20,
            "files": sum(one.num_fds() for one in family),
            "threads": sum(one.num_threads() for one in family),
            "processes": len(family),
        }
    kinds = Counter(key.decode().split(":")[2] for key in redis.scan_iter(match=f"{PREFIX}*", count=1000))
    print(dict(kinds))
    found["data"] = {
        "clients": int(redis.info()["connected_clients"]),
        "keys": sum(n for kind, n in kinds.items() if kind not in KEPT_LONGER),
    }
    return found


def rows(before: Counts, after: Counts) -> Iterator[tuple[str, str, int, int, bool]]:
    """Give what was counted, before and after, and whether it came back."""
    for part, counts in before.items():
        for what, n in counts.items():
            now = after[part][what]
            most = n * (1 + MOST_GROWTH_PERCENT / 100) + SLACK
            yield part, what, n, now, now <= most


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    minutes = parser.parse_args().minutes
    with Stack(Path(tempfile.mkdtemp()), settings=SETTINGS) as stack, Receiver(stack.secret) as receiver:
        stack.wait_ready()
        load = Load(stack, receiver.url)
        with Redis(port=stack.redis_port) as redis:
            asyncio.run(load.run(WARM_S))
            time.sleep(QUIET_S)
            before = count(stack, redis)
            load.done.clear()
            asyncio.run(load.run(60 * minutes))
            time.sleep(QUIET_S)
            after = count(stack, redis)
    print(f"{minutes:g} minutes: {dict(load.done)}, {len(receiver.received)} webhooks")
    print("| part | | before | after | |\n|---|---|---|---|---|")
    is_good = True
    for part, what, n, now, came_back in rows(before, after):
        is_good &= came_back
        print(f"| {part} | {what} | {n} | {now} | {'' if came_back else '**grew**'} |")
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
