"""What it costs to be watched: two services side by side, one with metrics and traces and one without.

``.venv/bin/python -m bench.observed``: both are the stack of :mod:`bench.queue`. They take submits and polls in short turns,
then their workers work off what they took, one after the other, the first of one round being the second of the next. Of the
one, each process's port and the gateway's ``/metrics`` are scraped every second, and a receiver on loopback counts the spans of
all jobs. With ``--seconds 0.1 --slots 256`` the process of the worker is the bound. One JSON line comes last: medians
of the rounds, and the ratio of watched to not as the median of theirs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import httpx
import psutil
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bench.load import fire, get, post
from bench.queue import Cpu, tiny, wait_until_up, worked
from sightline.ports import free_port
from sightline.stack import Stack

SPANS_OF_A_JOB = 7  #: made, attempt, fetch, decode, wait, render, generate
SCRAPE_EVERY_S = 1.0  #: Prometheus does each 15 s
BURST = 100  #: requests of a turn
PARTS = 4  #: gateway, batch runner, sender, worker: the bench's own stack has no other with figures


def serve(port: int, seen: Synchronized[int]) -> None:
    """Receive OTLP, and count the spans: a process of its own, which takes the least that a receiver can."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
            with seen:
                seen.value += sum(len(scope.spans) for resource in body.resource_spans for scope in resource.scope_spans)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


@contextmanager
def receiver() -> Iterator[tuple[str, Synchronized[int]]]:
    """Run one while the block runs; gives its address and the number of spans that came."""
    apart, port = multiprocessing.get_context("spawn"), free_port()
    seen = apart.Value("q", 0)
    process = apart.Process(target=serve, args=(port, seen), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{port}", seen
    finally:
        process.terminate()
        process.join()


@contextmanager
def scraped(urls: list[str]) -> Iterator[None]:
    """Read these as Prometheus does, again and again, while the block runs."""
    over = threading.Event()

    def scrape() -> None:
        with httpx.Client() as http:
            while not over.wait(SCRAPE_EVERY_S):
                for url in urls:
                    with suppress(httpx.HTTPError):  # the worker starts later than the others
                        http.get(url)

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@dataclass
class Side:
    """One of the two services, and what was measured of it."""

    stack: Stack
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"submit": [], "poll": []})
    cpu_ms: dict[str, list[float]] = field(default_factory=lambda: {"submit": [], "poll": []})

    def fire(self, what: str, requests: list[bytes]) -> list[dict[str, Any]]:
        """Send these to its gateway."""
        cpu = Cpu(self.stack)
        seconds, bodies = fire(self.stack.port, requests)
        self.seconds[what].append(seconds / len(requests))
        self.cpu_ms[what].append(cpu.ms_each("gateway", len(requests)))
        return bodies

    def burst(self, jobs: list[dict[str, Any]]) -> None:
        """Submit jobs, and look at each."""
        ids = [job["id"] for job in self.fire("submit", [post("/v1/jobs", job) for job in jobs])]
        self.fire("poll", [get(f"/v1/jobs/{job_id}") for job_id in ids])

    def report(self, arguments: argparse.Namespace) -> dict[str, float]:
        """Let a worker loose on what was submitted; gives all that is known then."""
        done = worked(self.stack, arguments)
        gateway = psutil.Process(self.stack.processes["gateway"].pid)
        return {
            **{f"{what}s_per_s": 1 / statistics.median(each) for what, each in self.seconds.items()},
            **{f"{what}_cpu_ms": statistics.median(each) for what, each in self.cpu_ms.items()},
            "jobs_per_s": done["per_s"],
            "worker_cpu_ms": done["job_cpu_ms"]["worker"],
            "gateway_rss_mb": gateway.memory_info().rss / 2**20,
        }


def measured(endpoint: str, arguments: argparse.Namespace, order: tuple[str, str]) -> dict[str, dict[str, float]]:
    """Measure two services, whose workers work in this order."""
    engine = {"SIGHTLINE_ENGINE": "bench.queue:Slots", "SIGHTLINE_MAX_NUM_SEQS": str(arguments.slots)}
    port = free_port()
    watching = {"SIGHTLINE_METRICS_PORT": str(port), "SIGHTLINE_OTEL": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
    urls = [f"http://127.0.0.1:{port + n}/metrics" for n in range(PARTS)]
    folder = Path(tempfile.mkdtemp(prefix="sightline-bench-"))
    prompt = f"!slow {arguments.seconds}"
    with (
        Stack(folder / "off", settings=engine, workers=0) as off,
        Stack(folder / "on", settings=engine | watching, workers=0) as on,
        scraped([*urls, f"{on.url}/metrics"]),
    ):
        sides = {"off": Side(off), "on": Side(on)}
        for stack in (off, on):
            wait_until_up(stack.port)
        for first in range(0, arguments.jobs, BURST):
            jobs = [{"prompt": prompt, "images": [tiny(n)]} for n in range(first, min(first + BURST, arguments.jobs))]
            for side in sides.values():
                side.burst(jobs)
        return {name: sides[name].report(arguments) for name in order}


def main() -> None:
    """Take rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=1.0, help="what a job takes in its slot")
    parser.add_argument("--jobs", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    rounds = list[dict[str, dict[str, float]]]()
    with receiver() as (endpoint, seen):
        for n in range(arguments.rounds):
            rounds.append(measured(endpoint, arguments, ("off", "on") if n % 2 else ("on", "off")))
            for side, found in rounds[-1].items():
                print(f"{side}: " + ", ".join(f"{name} {value:.2f}" for name, value in found.items()), file=sys.stderr)
        spans = seen.value
    names = rounds[0]["off"]
    middle = {
        side: {name: round(statistics.median(each[side][name] for each in rounds), 2) for name in names} for side in rounds[0]
    }
    ratios = {name: round(statistics.median(each["on"][name] / each["off"][name] for each in rounds), 3) for name in names}
    whole = arguments.rounds * arguments.jobs * SPANS_OF_A_JOB
    more = {"spans": spans, "spans_whole": whole, "load_average": round(os.getloadavg()[0], 1)}
    print(json.dumps({**vars(arguments), **middle, "ratio": ratios, **more}))


if __name__ == "__main__":
    main()
