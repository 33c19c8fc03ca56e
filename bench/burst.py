"""Many large bodies at once: when the first, the middle and the last of them are jobs, and what the gateway needs for it.

``.venv/bin/python -m bench.burst`` starts the gateway and Valkey without a worker, has four processes open 120 connections
each, and sends one job on each at the same moment, its picture in the body. Rounds follow each other; the figures are each
round's. One JSON line comes last, of the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import uvloop

from bench.gpu.cases import Case
from bench.gpu.clients import PROCESSES, data_url
from bench.load import Connection, post
from sightline.stack import Stack

#: Which of the accepted are told of, by their share of all.
WHEN = {"first_s": 0, "twentieth_s": 0.05, "median_s": 0.5, "last_s": 1}


def requests_of(folder: Path, size_px: tuple[int, int], n: int) -> list[bytes]:
    """Write a request for each of ``n`` different pictures."""
    files = Case("burst", (size_px,), 16, n).files(folder)
    return [post("/v1/jobs", {"images": [data_url(file)], "prompt": "What is there?"}) for file in files]


def send(port: int, requests: list[bytes], begin: Any, accepted_s: Any) -> None:
    """In a process: send all requests when told to, and give the time at which each was accepted."""
    begin.wait()
    accepted_s.put(uvloop.run(_send_all(port, requests)))


async def _send_all(port: int, requests: list[bytes]) -> list[float]:
    async def one(request: bytes) -> float:
        async with Connection(port) as connection:
            await connection.ask(request)
            return time.time()

    return await asyncio.gather(*map(one, requests))


def measure(port: int, requests: list[bytes], gateway: psutil.Process) -> dict[str, float]:
    """Send all at once; seconds since then, the gateway's CPU time for a job in ms, and its memory afterwards in MB."""
    context = multiprocessing.get_context("fork")
    begin, answers = context.Barrier(PROCESSES + 1), context.Queue()
    parts = [(port, requests[k::PROCESSES], begin, answers) for k in range(PROCESSES)]
    senders = [context.Process(target=send, args=part, daemon=True) for part in parts]
    for sender in senders:
        sender.start()
    before = gateway.cpu_times()
    begin.wait()
    began = time.time()
    at = sorted(second - began for _ in senders for second in answers.get())
    after = gateway.cpu_times()
    cpu_s = after.user + after.system - before.user - before.system
    when = {name: round(at[int(share * (len(at) - 1))], 2) for name, share in WHEN.items()}
    return when | {"cpu_ms": round(1000 * cpu_s / len(at), 1), "rss_mb": gateway.memory_info().rss >> 20}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(2048, 1536), metavar="PX")
    parser.add_argument("--jobs", type=int, default=480)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        requests = requests_of(Path(folder) / "files", tuple(asked.size), asked.jobs)
        settings = {"SIGHTLINE_MAX_QUEUED": str(asked.rounds * asked.jobs)}
        with Stack(Path(folder) / "state", settings=settings, workers=0) as stack:
            stack.wait_ready()
            gateway = psutil.Process(stack.processes["gateway"].pid)
            rounds = [measure(stack.port, requests, gateway) for _ in range(asked.rounds)]
    for found in rounds:
        print(found, flush=True)
    medians = {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}
    print(json.dumps({"bytes": statistics.mean(map(len, requests)), "cores": os.cpu_count()} | medians))


if __name__ == "__main__":
    main()
