"""What it costs to be watched: jobs, submits and polls a second with metrics and traces, and without.

``.venv/bin/python -m bench.observed`` starts the stack of :mod:`bench.queue` anew for each turn, off and on in turns.
While it is on, each process has a port that is scraped every second, the gateway's ``/metrics`` too, and sends the spans of all
jobs to a receiver on loopback, which counts them. With ``--seconds 0.05`` the worker's process is the bound instead of the
engine. One JSON line comes last: medians, and the ratio of on to off as the median of the turns' ratios.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
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


def turn(settings: dict[str, str], arguments: argparse.Namespace, watched: Callable[[Stack], Any]) -> dict[str, float]:
    """Measure a stack of its own."""
    folder = Path(tempfile.mkdtemp(prefix="sightline-bench-"))
    body = {"prompt": "!slow " + str(arguments.seconds)}
    requests = [post("/v1/jobs", body | {"images": [tiny(n)]}) for n in range(arguments.jobs)]
    with Stack(folder, settings=settings, workers=0) as stack, watched(stack):
        wait_until_up(stack.port)
        gateway = psutil.Process(stack.processes["gateway"].pid)
        cpu = Cpu(stack)
        seconds, jobs = fire(stack.port, requests)
        found = {"submits_per_s": len(jobs) / seconds, "submit_cpu_ms": cpu.ms_each("gateway", len(jobs))}
        cpu = Cpu(stack)
        seconds, jobs = fire(stack.port, [get(f"/v1/jobs/{job['id']}") for job in jobs])
        found |= {"polls_per_s": len(jobs) / seconds, "poll_cpu_ms": cpu.ms_each("gateway", len(jobs))}
        done = worked(stack, arguments)
        found |= {"jobs_per_s": done["per_s"], "worker_cpu_ms": done["job_cpu_ms"]["worker"]}
        return found | {"gateway_rss_mb": gateway.memory_info().rss / 2**20}


def main() -> None:
    """Take turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=1.0, help="what a job takes in its slot")
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    engine = {"SIGHTLINE_ENGINE": "bench.queue:Slots", "SIGHTLINE_MAX_NUM_SEQS": str(arguments.slots)}
    off, on = list[dict[str, float]](), list[dict[str, float]]()
    with receiver() as (endpoint, seen):
        for _ in range(arguments.rounds):
            off.append(turn(engine, arguments, lambda _: nullcontext()))
            port = free_port()
            watching = {"SIGHTLINE_METRICS_PORT": str(port), "SIGHTLINE_OTEL": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
            urls = [f"http://127.0.0.1:{port + n}/metrics" for n in range(PARTS)]
            on.append(turn(engine | watching, arguments, lambda stack, urls=urls: scraped([*urls, f"{stack.url}/metrics"])))
            for side, found in ("off", off[-1]), ("on", on[-1]):
                print(f"{side}: " + ", ".join(f"{name} {value:.2f}" for name, value in found.items()), file=sys.stderr)
        spans = seen.value
    middle = {
        side: {name: round(statistics.median(each[name] for each in turns), 2) for name in turns[0]}
        for side, turns in (("off", off), ("on", on))
    }
    ratios = {name: round(statistics.median(b[name] / a[name] for a, b in zip(off, on, strict=True)), 3) for name in off[0]}
    whole = arguments.rounds * arguments.jobs * SPANS_OF_A_JOB
    more = {"spans": spans, "spans_whole": whole, "load_average": round(os.getloadavg()[0], 1)}
    print(json.dumps({**vars(arguments), **middle, "ratio": ratios, **more}))


if __name__ == "__main__":
    main()
