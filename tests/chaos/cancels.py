"""``python -m tests.chaos.cancels``: how soon a cancelled job has ended, in each stage, with its worker in another process.

50 jobs are cancelled in each of four stages: queued behind a full worker, fetching from a slow site, decoding a large
picture, generating on the engine double. ``--engine vllm`` cancels 200 jobs of the demo model on the real engine instead,
in whatever stage they are, and waits until the engine's own count of running requests is 0. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from demo.scenes import scene
from sightline.client import Client, ServiceError
from sightline.stack import Stack
from tests.chaos.checker import percentile
from tests.chaos.trial import say
from tests.media import RED, data_url, picture

N = 200
SLOTS = 8  #: of the double; a quarter more jobs are in flight
MAX_P99_S = 2.0
STAGES = ("queued", "fetching", "decoding", "generating")
FINAL = {"succeeded", "failed", "cancelled"}
Timed = tuple[str, float, str]  #: stage when cancelled, seconds to its end, how it ended


class Cancels:
    """Submits, cancels and times."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def submit(self, prompt: str, image: str) -> str:
        """Give the new job's id."""
        job_id: str = self._client.submit({"prompt": prompt, "images": [image]})["id"]
        return job_id

    def stage(self, job_id: str) -> str:
        """Say where a job is: its stage while it runs, else its state."""
        job = self._client.request("GET", f"/v1/jobs/{job_id}")
        return str(job["stage"] or job["status"])

    def reach(self, job_id: str, stage: str) -> None:
        """Wait until a job is there or further: stages are published once a second."""
        while self.stage(job_id) in STAGES[: STAGES.index(stage)]:
            time.sleep(0.05)

    def cancel(self, job_id: str) -> Timed | None:
        """Cancel a job and wait for its end; None where that had come before."""
        stage, began = self.stage(job_id), time.monotonic()
        try:
            job = self._client.request("POST", f"/v1/jobs/{job_id}/cancel")
        except ServiceError:
            return None
        if job["status"] not in FINAL:
            job = self._client.wait(job_id, timeout_s=60)
        return stage, time.monotonic() - began, job["status"]


@contextmanager
def slow_site() -> Iterator[str]:
    """Serve pictures that never end."""

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            for _ in range(200):
                self.wfile.write(b"\x89")
                self.wfile.flush()
                time.sleep(0.1)

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:  # the worker hung up, as it should
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/a.png"
    server.shutdown()


def by_stage(client: Client) -> list[Timed]:
    """Cancel a quarter of the jobs in each stage."""
    cancels, small, times = Cancels(client), data_url(picture()), list[Timed]()
    large = data_url(picture(RED, (9000, 5500)))
    with slow_site() as slow, ThreadPoolExecutor(SLOTS) as pool:
        work = {"fetching": ("x", slow), "decoding": ("!slow 60", large), "generating": ("!slow 60", small)}
        for stage, (prompt, image) in work.items():
            say(stage)
            for _ in range(N // 4 // 5):
                ids = list(pool.map(lambda _, p=prompt, i=image: cancels.submit(p, i), range(5)))
                list(pool.map(lambda job_id, s=stage: cancels.reach(job_id, s), ids))
                times += [timed for timed in pool.map(cancels.cancel, ids) if timed]
        say("queued")
        fillers = [cancels.submit("!slow 600", small) for _ in range(SLOTS + 2)]
        for job_id in fillers:
            cancels.reach(job_id, "fetching")
        ids = [cancels.submit("!slow 60", small) for _ in range(N // 4)]
        times += [timed for timed in pool.map(cancels.cancel, ids) if timed]
        times += [timed for timed in pool.map(cancels.cancel, fillers) if timed]
    return times


def on_vllm(client: Client) -> list[Timed]:
    """Cancel jobs of the real engine at random moments of their lives, until enough were in time."""
    cancels, rng, times = Cancels(client), random.Random(1), list[Timed]()
    pictures = [data_url(scene(700_000 + n).png()) for n in range(40)]

    def live(n: int) -> Timed | None:
        job_id = cancels.submit("Describe this image.", pictures[n])
        time.sleep(delays_s[n])
        return cancels.cancel(job_id)

    with ThreadPoolExecutor(len(pictures)) as pool:
        while len(times) < N:
            delays_s = [rng.uniform(0, 2.5) for _ in pictures]
            times += [timed for timed in pool.map(live, range(len(pictures))) if timed and timed[2] == "cancelled"]
            say(f"{len(times)} cancelled")
    return times


def engine_running(client: Client) -> int:
    """Wait until the engine has nothing to do, at most for 10 s; gives what is left."""
    until = time.monotonic() + 10
    while True:
        time.sleep(1.1)  # the worker's next notice
        (worker,) = client.request("GET", "/v1/workers")["data"]
        if not worker["engine_running"] or time.monotonic() > until:
            return int(worker["engine_running"])


def figures_of(times: list[Timed], running: int) -> dict[str, Any]:
    """Put the figures together."""
    stages = defaultdict(list)
    for stage, seconds, _ in times:
        stages[stage].append(seconds)
    seconds = sorted(timed[1] for timed in times)
    share = {name: percentile(seconds, at) or 0.0 for name, at in (("p50_s", 0.5), ("p99_s", 0.99), ("max_s", 1.0))}
    return {
        "cancels": len(times),
        "not_cancelled": sum(timed[2] != "cancelled" for timed in times),
        **{name: round(value, 3) for name, value in share.items()},
        "by_stage": {name: {"n": len(of), "max_s": round(max(of), 3)} for name, of in sorted(stages.items())},
        "engine_running_after": running,
    }


def main() -> int:
    """Start the service, measure, stop it; gives the exit code."""
    parser = argparse.ArgumentParser(prog="cancels", description=__doc__)
    parser.add_argument("--engine", choices=["double", "vllm"], default="double")
    engine = parser.parse_args().engine
    settings = {"SIGHTLINE_MODEL": "demo", "SIGHTLINE_ENGINE": engine, "SIGHTLINE_ALLOW_NETWORKS": "127.0.0.0/8"}
    if engine == "double":
        settings |= {"SIGHTLINE_ENGINE": "tests.double:DoubleEngine", "SIGHTLINE_MAX_NUM_SEQS": str(SLOTS)}
    with Stack(Path(tempfile.mkdtemp(prefix="sightline-cancels-")), settings=settings) as stack, Client(stack.url) as client:
        stack.wait_ready()
        times = (by_stage if engine == "double" else on_vllm)(client)
        figures = {"engine": engine, **figures_of(times, engine_running(client))}
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0 if figures["p99_s"] <= MAX_P99_S and not figures["engine_running_after"] else 1


if __name__ == "__main__":
    sys.exit(main())
