"""The trials: each does one thing to senders, receivers or streams that real networks do, and gives its figures."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from shared.jobs import JobRequest
from shared.media_types import sniff
from shared.messages import short_form
from shared.store.ids import new_id
from tests.media import picture
from tests.sse import Told, tell, text_of
from tests.webhooks.dropping import dropping
from tests.webhooks.parts import Hit, Receiver, percentile, take, world

Figures = dict[str, Any]


async def kills(folder: Path, *, n: int = 100) -> Figures:
    """Kill the sender between send and mark, ``n`` times; no doorbell is rung, as after a worker's death."""
    async with world(folder) as stage:
        sender = stage.spawn("worker.main", "webhooks", SIGHTLINE_WEBHOOK_TIMEOUT_S="0.5")
        seen, rng = set[str](), random.Random(1)

        async def kill_sender(hit: Hit, writer: asyncio.StreamWriter) -> None:
            nonlocal sender, killed
            if hit.event_id in seen or killed >= n or sender.poll() is not None:
                await take(hit, writer)
                return
            seen.add(hit.event_id)
            if rng.random() < 0.5:  # half of them: the answer is on its way
                await take(hit, writer)
            sender.kill()
            killed += 1

        killed = 0
        async with Receiver(kill_sender).serving() as receiver:
            wanted = [await stage.end_job(f"http://127.0.0.1:{receiver.port}/{i}") for i in range(n)]
            while killed < n:
                await asyncio.sleep(0.02)
                if sender.poll() is not None:
                    sender = stage.spawn("worker.main", "webhooks", SIGHTLINE_WEBHOOK_TIMEOUT_S="0.5")
                if not await stage.redis.zcard("sightline:{sightline}:due") and killed < n:
                    wanted.append(await stage.end_job(f"http://127.0.0.1:{receiver.port}/x"))
            await asyncio.to_thread(sender.wait)
            stage.spawn("worker.main", "webhooks", SIGHTLINE_WEBHOOK_TIMEOUT_S="0.5")
            await stage.settled()
    told = Counter(json.loads(hit.body)["data"]["id"] for hit in receiver.hits)
    ids = {(json.loads(hit.body)["data"]["id"], hit.event_id) for hit in receiver.hits}
    return {
        "sender_kills": killed,
        "jobs": len(wanted),
        "missing": len(set(wanted) - set(told)),
        "deliveries": sum(told.values()),
        "duplicates": sum(told.values()) - len(told),
        "jobs_with_two_ids": len(ids) - len(told),
        "not_genuine": sum(not hit.is_genuine(stage.secret) for hit in receiver.hits),
        "ok": set(wanted) == set(told) and len(ids) == len(told),
    }


async def crowd(folder: Path, *, hosts: int = 1000, per_host: int = 4) -> Figures:
    """Tell ``hosts`` healthy receivers, with and without one that hangs; latency runs from the job's end to the arrival."""
    delays: dict[str, list[float]] = {"without": [], "with": []}
    n_dead = 0

    async def hang(_: Hit, __: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async def round_of(name: str) -> None:
        nonlocal n_dead
        async with world(folder) as stage, Receiver().serving() as healthy, Receiver(hang).serving() as dead:
            sender = stage.spawn("worker.main", "webhooks", SIGHTLINE_WEBHOOK_TIMEOUT_S="5")
            await stage.end_job(f"http://127.1.0.1:{healthy.port}/")
            await stage.settled()
            healthy.hits.clear()
            began, order = time.monotonic(), [i % hosts for i in range(hosts * per_host)]
            for k, i in enumerate(order):
                await stage.end_job(f"http://127.0.{i // 250}.{i % 250 + 1}:{healthy.port}/")
                if name == "with" and k % 10 == 0:
                    await stage.end_job(f"http://127.2.0.1:{dead.port}/")
                await asyncio.sleep(max(0.0, began + k / 80 - time.monotonic()))
            async with asyncio.timeout(120):
                while len(healthy.hits) < len(order):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            for hit in healthy.hits:
                ended = datetime.fromisoformat(json.loads(hit.body)["timestamp"]).timestamp()
                delays[name].append(hit.at_s - ended)
            n_dead += len(dead.hits)
            sender.kill()

    for name in ("without", "with", "with", "without"):  # so that a slow machine is slow for both
        await round_of(name)
    p99 = {name: percentile(values, 0.99) for name, values in delays.items()}
    p50 = {name: percentile(values, 0.5) for name, values in delays.items()}
    return {
        "hosts": hosts,
        "deliveries": len(delays["with"]),
        "to_the_dead": n_dead,
        "p50_ms": {name: round(value * 1000) for name, value in p50.items()},
        "p99_ms": {name: round(value * 1000) for name, value in p99.items()},
        "p99_ratio": round(p99["with"] / p99["without"], 2),
        "ok": p99["with"] <= 1.2 * p99["without"],
    }


async def hostile(folder: Path, *, each: int = 25) -> Figures:
    """Answer with a redirect, 10 GB, one byte a second and a gzip bomb; watch the sender's memory."""
    bomb = gzip.compress(bytes(200 * 2**20))

    async def answer(hit: Hit, writer: asyncio.StreamWriter) -> None:
        if hit.path == "/redirect":
            writer.write(f"HTTP/1.1 301 Moved\r\nlocation: http://127.7.7.7:{other.port}/\r\n\r\n".encode())
            return
        sizes = {"/endless": 10 * 10**9, "/drip": 1000, "/bomb": len(bomb)}
        extra = "content-encoding: gzip\r\n" if hit.path == "/bomb" else ""
        writer.write(f"HTTP/1.1 200 OK\r\n{extra}content-length: {sizes[hit.path]}\r\n\r\n".encode())
        if hit.path == "/bomb":
            writer.write(bomb)
        while hit.path == "/endless":
            writer.write(bytes(2**16))
            await writer.drain()
        while hit.path == "/drip":
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(1)

    async with world(folder) as stage, Receiver(answer).serving() as site, Receiver().serving() as other:
        sender = stage.spawn("worker.main", "webhooks", SIGHTLINE_WEBHOOK_TIMEOUT_S="3", SIGHTLINE_WEBHOOK_SCHEDULE_S="0.2,0.2")
        # One that goes well, so that everything is loaded.
        await stage.end_job(f"http://127.0.0.1:{other.port}/")
        await stage.settled()
        memory = psutil.Process(sender.pid)
        before, peak = memory.memory_info().rss, 0
        kinds = ("redirect", "endless", "drip", "bomb")
        # A host for each delivery: one host that always fails would soon be asked very seldom.
        jobs = {
            kind: [await stage.end_job(f"http://127.3.{k}.{i + 1}:{site.port}/{kind}") for i in range(each)]
            for k, kind in enumerate(kinds)
        }
        while await stage.redis.zcard("sightline:{sightline}:due"):
            peak = max(peak, memory.memory_info().rss)
            await asyncio.sleep(0.05)
        logs = {kind: [await stage.outbox.of_job(job_id) for job_id in ids] for kind, ids in jobs.items()}
        errors = {
            kind: Counter(str(a["error"] or a["code"]) for (delivery,) in of_kind for a in delivery["attempts"])
            for kind, of_kind in logs.items()
        }
        states = Counter(delivery["status"] for of_kind in logs.values() for (delivery,) in of_kind)
    grown_mb = (peak - before) / 2**20
    return {
        "attempts": {kind: dict(counts) for kind, counts in errors.items()},
        "states": dict(states),
        "redirects_followed": len(other.hits) - 1,
        "rss_mb": round(before / 2**20),
        "grown_mb": round(grown_mb, 1),
        "ok": set(states) == {"given_up"} and len(other.hits) == 1 and grown_mb < 64,
    }


async def rotation(folder: Path, *, rotations: int = 20) -> Figures:
    """Change an endpoint's secret again and again under load; the receiver changes over half-way between."""
    async with world(folder) as stage, Receiver().serving() as receiver:
        stage.spawn("worker.main", "webhooks")
        endpoint = await stage.endpoints.create(
            owner="local", name="x", url=f"http://127.0.0.1:{receiver.port}/", events=["job.succeeded"], payload="full"
        )
        known, judged, failures, n_jobs = endpoint.secret, 0, 0, 0
        ends = time.monotonic() + rotations * 2.0

        async def load() -> None:
            nonlocal n_jobs
            while time.monotonic() < ends:
                await stage.end_job()
                n_jobs += 1
                await asyncio.sleep(0.02)

        def judge() -> None:
            nonlocal judged, failures
            failures += sum(not hit.is_genuine(known) for hit in receiver.hits[judged:])
            judged = len(receiver.hits)

        async def listen() -> None:
            while True:
                judge()
                await asyncio.sleep(0.005)

        loading, listening = asyncio.create_task(load()), asyncio.create_task(listen())
        for _ in range(rotations):
            newest = await stage.endpoints.rotate(endpoint.id, owner="local", keep_old=True)
            await asyncio.sleep(1.0)
            judge()
            known = newest.secret
            await asyncio.sleep(1.0)
        await loading
        await stage.settled()
        judge()
        listening.cancel()
    return {
        "rotations": rotations,
        "deliveries": judged,
        "jobs": n_jobs,
        "verification_failures": failures,
        "ok": failures == 0 and judged == n_jobs,
    }


async def streams(folder: Path, *, drops: int = 100, open_streams: int = 500) -> Figures:
    """Drop a stream at random until the job ends; then leave with many open."""
    port = 20_000 + os.getpid() % 10_000
    async with world(folder) as stage:
        gateway = stage.spawn("api.main", SIGHTLINE_PORT=str(port))
        stage.spawn("worker.main", "jobs")
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, limits=limits) as client:
            await _ready(client)
            n_dropped, n_jobs, equal = 0, 0, True
            rng = random.Random(7)
            while n_dropped < drops:
                events, dropped = await _dropped_at_random(client, rng)
                n_dropped, n_jobs = n_dropped + dropped, n_jobs + 1
                equal &= text_of(events) == events[-1].data["output"]["text"]
                late = [event async for event in tell(client, f"/v1/jobs/{events[-1].data['id']}/events")]
                equal &= late == events
            waiting = new_id("job")
            request = JobRequest(messages=short_form("x", ["file-1"]))
            for process in stage.processes[1:]:
                stage.stop(process)  # nobody takes the job whose streams stay open
            await stage.store.submit(request, stage.settings, owner="local", job_id=waiting)
            n_open, cut = 0, 0

            async def listen() -> None:
                nonlocal n_open, cut
                try:
                    async for _ in tell(client, f"/v1/jobs/{waiting}/events"):
                        n_open += 1
                except httpx.HTTPError:
                    cut += 1

            readers = [asyncio.create_task(listen()) for _ in range(open_streams)]
            while n_open < open_streams:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            began = time.monotonic()
            gateway.send_signal(signal.SIGTERM)
            await asyncio.to_thread(gateway.wait, 60)
            left_s = time.monotonic() - began
            await asyncio.gather(*readers)
    return {
        "drops": n_dropped,
        "jobs": n_jobs,
        "deltas_equal_output": equal,
        "open_streams": n_open,
        "cut_off": cut,
        "left_after_s": round(left_s, 2),
        "ok": equal and left_s <= 5.0 and cut == 0,
    }


async def _ready(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(120):
        while True:
            with suppress(httpx.TransportError):
                if (await client.get("/readyz")).is_success:
                    return
            await asyncio.sleep(0.1)


async def _dropped_at_random(client: httpx.AsyncClient, rng: random.Random) -> tuple[list[Told], int]:
    data = picture()
    assert sniff(data)
    upload = (await client.post("/v1/files", files={"file": data})).json()
    prompt = "!slow 0.3 !speak 0.02 " + "一个 红色的 圆 和 two blue squares 然后 nothing more " * 20
    answer = await client.post("/v1/jobs", json={"prompt": prompt, "images": [upload["id"]]})
    path, events, dropped = f"/v1/jobs/{answer.json()['id']}/events", list[Told](), 0
    while not events or not events[-1].type.endswith(("succeeded", "failed")):
        stop_at = len(events) + rng.randint(1, 4)
        async for event in tell(client, path, after=events[-1].id if events else None):
            events.append(event)
            if len(events) == stop_at:
                dropped += 1
                break
    return events, dropped


TRIALS = {"kills": kills, "crowd": crowd, "hostile": hostile, "rotation": rotation, "streams": streams, "dropping": dropping}
