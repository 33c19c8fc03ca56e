"""What the queue itself costs, without a GPU: how full one worker keeps an engine of S slots x T seconds, and the submit rate.

``.venv/bin/python -m bench.queue`` starts the real gateway, Valkey and a Celery worker with the engine double of the tests,
submits a backlog, then lets the worker loose on it. The ideal is S / T jobs a second. The submit rate stands beside that of
a bare FastAPI route that does one SET, on the same Valkey. One JSON line comes last.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from PIL import Image
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from shared.database import PREFIX, new_id
from sightline.client import Client, ServiceError
from sightline.stack import Stack, free_port
from tests.double import DoubleEngine

CLIENTS = 16
#: The first and last parts of a run are ramp and tail; what lies between is how it goes for hours.
STEADY = (0.15, 0.85)


class Slots(DoubleEngine):
    """The double without its faults, which it would look for fifty times a second in every request."""

    async def _pass(self, seconds: float, _: Any) -> None:
        await asyncio.sleep(seconds)


def bare() -> FastAPI:
    """Make the least that a gateway could do: take JSON, write one key, give an id."""
    app, redis = FastAPI(), AsyncRedis.from_url(os.environ["SIGHTLINE_REDIS_URL"])

    @app.post("/v1/jobs", status_code=202)
    async def take(body: dict[str, Any]) -> dict[str, str]:
        job_id = new_id("job")
        await redis.set(f"bare:{job_id}", json.dumps(body), ex=600)
        return {"id": job_id}

    return app


def picture(seed: int) -> str:
    """Give a small picture as a data-URL, each of another colour."""
    file = io.BytesIO()
    Image.new("RGB", (56, 56), (seed % 256, seed // 256 % 256, 128)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def wait_until_up(url: str) -> None:
    """Wait for a server's first answer, whatever it is."""
    with Client(url) as client:
        for _ in range(300):
            try:
                client.request("GET", "/livez")
            except ServiceError as error:
                if error.code != "unreachable":
                    return
                time.sleep(0.1)
            else:
                return


async def post_all(url: str, bodies: list[dict[str, Any]]) -> float:
    """Post them all, a few at a time; gives requests a second."""
    waiting, began = iter(bodies), time.monotonic()

    async def post() -> None:
        async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
            for body in waiting:
                (await client.post(url, json=body)).raise_for_status()

    await asyncio.gather(*(post() for _ in range(CLIENTS)))
    return len(bodies) / (time.monotonic() - began)


def ended_jobs(redis_url: str, count: int) -> list[dict[str, float]]:
    """Wait until that many jobs have succeeded; gives for each, in order, when it ended (s) and its milliseconds by stage."""
    with Redis.from_url(redis_url, decode_responses=True) as redis:
        while int(str(redis.get(f"{PREFIX}count:succeeded") or 0)) < count:
            time.sleep(0.5)
        pipe = redis.pipeline(transaction=False)
        for key in redis.scan_iter(match=f"{PREFIX}job:*", count=1000):
            pipe.hmget(key, "finished_ms", "output")
        jobs = [{"ended_s": int(at) / 1000, **json.loads(output)["timings_ms"]} for at, output in pipe.execute()]
    return sorted(jobs, key=lambda job: job["ended_s"])


def main() -> None:
    """Measure one worker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=1.0, help="what a job takes in its slot")
    parser.add_argument("--jobs", type=int, default=3000)
    arguments = parser.parse_args()
    settings = {"SIGHTLINE_ENGINE": "bench.queue:Slots", "SIGHTLINE_MAX_NUM_SEQS": str(arguments.slots)}
    prompt, port = f"!slow {arguments.seconds}", free_port()
    bodies = [{"prompt": prompt, "images": [picture(n)]} for n in range(arguments.jobs)]
    with Stack(Path(tempfile.mkdtemp(prefix="sightline-bench-")), settings=settings, workers=0) as stack:
        stack.spawn("bare", "uvicorn", "bench.queue:bare", "--factory", "--port", str(port), "--log-level", "warning")
        rates = {}
        for name, url in (("bare", f"http://127.0.0.1:{port}"), ("gateway", stack.url)):
            wait_until_up(url)
            rates[name] = asyncio.run(post_all(f"{url}/v1/jobs", bodies))
            print(f"{name}: {rates[name]:.0f} submits a second", file=sys.stderr)
        stack.spawn("worker-0", "worker.main", "jobs")
        jobs = ended_jobs(stack.environment["SIGHTLINE_REDIS_URL"], arguments.jobs)
    first, last = (int(share * (len(jobs) - 1)) for share in STEADY)
    per_s = (last - first) / (jobs[last]["ended_s"] - jobs[first]["ended_s"])
    ideal = arguments.slots / arguments.seconds
    result = {
        **vars(arguments),
        "per_s": round(per_s, 1),
        "share_of_ideal": round(per_s / ideal, 3),
        "mean_ms": {
            stage: round(statistics.mean(job[stage] for job in jobs[first:last])) for stage in ("fetch", "decode", "total")
        },
        "submits_per_s": round(rates["gateway"]),
        "submits_of_bare": round(rates["gateway"] / rates["bare"], 2),
        "load_average": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
