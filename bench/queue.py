"""What the queue costs, without a GPU: how full one worker keeps an engine of S slots x T seconds, and the gateway's rates.

``.venv/bin/python -m bench.queue`` starts the real gateway, Valkey and a Celery worker with the engine double of the tests,
submits a backlog, then lets the worker loose on it. The ideal is S / T jobs a second. The rates of submits and polls stand
beside those of a bare FastAPI app that does one SET or one GET, on the same Valkey, the same server and the same bodies, in
turns: each is one process, and the ratio is that of one process. Three bodies are submitted: a tiny picture inline, which is
the backlog; an address; a picture inline that is as large as a photograph. CPU is what each process used, in ms for each job
or request. One JSON line comes last.
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
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import psutil
from fastapi import FastAPI
from PIL import Image
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from bench.gpu.cases import MIDDLE, draw_picture
from bench.load import fire, get, post
from shared.store.ids import new_id
from shared.store.key_names import PREFIX
from sightline.client import Client, ServiceError
from sightline.stack import Stack, free_port
from tests.double import DoubleEngine

#: The first and last parts of a run are ramp and tail; what lies between is how it goes for hours.
STEADY = (0.15, 0.85)
#: Bare app and gateway take turns so often: the machine's other work comes and goes.
ROUNDS = 5


class Slots(DoubleEngine):
    """The double without its faults, which it would look for fifty times a second in every request."""

    async def _pass(self, seconds: float, _: Any) -> None:
        await asyncio.sleep(seconds)


def bare() -> FastAPI:
    """Make the least that a gateway could do: take JSON, write one key, give an id; read it again."""
    app, redis = FastAPI(), AsyncRedis.from_url(os.environ["SIGHTLINE_REDIS_URL"])

    @app.post("/v1/jobs", status_code=202)
    async def take(body: dict[str, Any]) -> dict[str, str]:
        job_id = new_id("job")
        await redis.set(f"bare:{job_id}", json.dumps(body), ex=600)
        return {"id": job_id}

    @app.get("/v1/jobs/{job_id}")
    async def tell(job_id: str) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(await redis.get(f"bare:{job_id}"))
        return body

    return app


def tiny(seed: int) -> str:
    """Give a small picture as a data-URL, each of another colour."""
    file = io.BytesIO()
    Image.new("RGB", (56, 56), (seed % 256, seed // 256 % 256, 128)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def photo(seed: int) -> str:
    """Give a JPEG of 124 kB as a data-URL, each of other blocks."""
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        draw_picture(Path(file.name), MIDDLE, seed)
        return f"data:image/jpeg;base64,{base64.b64encode(file.read()).decode()}"


def wait_until_up(port: int) -> None:
    """Wait for a server's first answer, whatever it is."""
    with Client(f"http://127.0.0.1:{port}") as client:
        for _ in range(300):
            try:
                client.request("GET", "/livez")
            except ServiceError as error:
                if error.code != "unreachable":
                    return
                time.sleep(0.1)
            else:
                return


class Cpu:
    """Counts the CPU seconds of a stack's parts, with and without their children."""

    def __init__(self, stack: Stack) -> None:
        """Count from now on."""
        self._stack = stack
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        used = {}
        for name, process in self._stack.processes.items():
            parent = psutil.Process(process.pid)
            used[name] = _seconds(parent)
            used[f"{name}'s children"] = sum(map(_seconds, parent.children(recursive=True)))
        return used

    def ms_each(self, part: str, n: int) -> float:
        """Give the milliseconds since the start that a part used for each of n."""
        return round((self._now()[part] - self._before[part]) / n * 1000, 2)


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


class Rates:
    """Measures the gateway beside the bare app, in turns."""

    def __init__(self, stack: Stack, ports: dict[str, int]) -> None:
        """Use a running stack, and the ports of both by their names in it."""
        self._stack, self._ports = stack, ports

    def measure(self, what: str, requests: dict[str, Sequence[bytes]]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
        """Send each side its requests.

        Returns:
            What to report, under the name of it, and all answers of each side.
        """
        per_s: dict[str, list[float]] = {name: [] for name in self._ports}
        cpu_ms: dict[str, list[float]] = {name: [] for name in self._ports}
        answers: dict[str, list[Any]] = {name: [] for name in self._ports}
        for n in range(ROUNDS):
            for name, port in self._ports.items():
                part = requests[name][n::ROUNDS]
                cpu = Cpu(self._stack)
                seconds, bodies = fire(port, part)
                per_s[name].append(len(part) / seconds)
                cpu_ms[name].append(cpu.ms_each(name, len(part)))
                answers[name] += bodies
            print(f"{what}: " + ", ".join(f"{name} {rates[-1]:.0f}/s" for name, rates in per_s.items()), file=sys.stderr)
        ratios = [ours / bares for ours, bares in zip(per_s["gateway"], per_s["bare"], strict=True)]
        report = {
            "of_bare": round(statistics.median(ratios), 2),
            "per_s": {name: round(statistics.median(rates)) for name, rates in per_s.items()},
            "cpu_ms": {name: round(statistics.median(times), 2) for name, times in cpu_ms.items()},
        }
        return {what: report}, answers


def wait_for(redis_url: str, count: float) -> int:
    """Wait until that many jobs have succeeded, and say how many have."""
    with Redis.from_url(redis_url, decode_responses=True) as redis:
        while (ended := int(str(redis.hget(f"{PREFIX}totals", "succeeded") or 0))) < count:
            time.sleep(0.1)
        return ended


def outputs(redis_url: str) -> list[tuple[float, dict[str, Any]]]:
    """Give for each job that has an output, in order, when it ended, s, and the output."""
    with Redis.from_url(redis_url, decode_responses=True) as redis:
        pipe = redis.pipeline(transaction=False)
        for key in redis.scan_iter(match=f"{PREFIX}job:*", count=1000):
            pipe.hmget(key, "finished_ms", "output")
        found = [(int(at) / 1000, json.loads(output)) for at, output in pipe.execute() if output]
    return sorted(found, key=lambda job: job[0])


def worked(stack: Stack, arguments: argparse.Namespace) -> dict[str, Any]:
    """Let a worker loose on the backlog; gives what to report."""
    stack.spawn("worker-0", "worker.main", "jobs")
    redis_url = stack.environment["SIGHTLINE_REDIS_URL"]
    begun = wait_for(redis_url, STEADY[0] * arguments.jobs)
    cpu = Cpu(stack)
    n_steady = wait_for(redis_url, STEADY[1] * arguments.jobs) - begun
    parts = {"worker": "worker-0", "decoders": "worker-0's children", "redis": "redis's children"}
    cpu_ms = {name: cpu.ms_each(part, n_steady) for name, part in parts.items()}
    wait_for(redis_url, arguments.jobs)
    jobs = outputs(redis_url)
    first, last = (int(share * (len(jobs) - 1)) for share in STEADY)
    per_s = (last - first) / (jobs[last][0] - jobs[first][0])
    stages = ("fetch", "decode", "total")
    return {
        "per_s": round(per_s, 1),
        "share_of_ideal": round(per_s * arguments.seconds / arguments.slots, 3),
        "mean_ms": {
            stage: round(statistics.mean(output["timings_ms"][stage] for _, output in jobs[first:last])) for stage in stages
        },
        "job_cpu_ms": cpu_ms,
    }


def main() -> None:
    """Measure one gateway and one worker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=1.0, help="what a job takes in its slot")
    parser.add_argument("--jobs", type=int, default=3000)
    arguments = parser.parse_args()
    settings = {"SIGHTLINE_ENGINE": "bench.queue:Slots", "SIGHTLINE_MAX_NUM_SEQS": str(arguments.slots)}
    prompt, count = f"!slow {arguments.seconds}", arguments.jobs
    bodies: dict[str, Iterable[str]] = {
        "submit_tiny": map(tiny, range(count)),
        "submit_address": (f"https://example.com/{n}.jpg" for n in range(count)),
        "submit_photo": map(photo, range(count // 4)),
    }
    posts = {
        what: [post("/v1/jobs", {"prompt": prompt, "images": [image]}) for image in images] for what, images in bodies.items()
    }
    with Stack(Path(tempfile.mkdtemp(prefix="sightline-bench-")), settings=settings, workers=0) as stack:
        ports = {"bare": free_port(), "gateway": stack.port}
        bare_port = str(ports["bare"])
        stack.spawn(
            "bare", "uvicorn", "bench.queue:bare", "--factory", "--port", bare_port, "--log-level", "warning", "--no-access-log"
        )
        for port in ports.values():
            wait_until_up(port)
        rates = Rates(stack, ports)
        report, answers = rates.measure("submit_tiny", dict.fromkeys(ports, posts.pop("submit_tiny")))
        polled = {name: [get(f"/v1/jobs/{job['id']}") for job in jobs] for name, jobs in answers.items()}
        report |= rates.measure("poll", polled)[0] | worked(stack, arguments)
        worker = stack.processes.pop("worker-0")  # nobody is to work on what comes now
        worker.terminate()
        worker.wait()
        for what, requests in posts.items():
            report |= rates.measure(what, dict.fromkeys(ports, requests))[0]
    print(json.dumps({**vars(arguments), **report, "load_average": round(os.getloadavg()[0], 1)}))


if __name__ == "__main__":
    main()
