"""One run of the whole system under load and faults."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import httpx
from redis.exceptions import RedisError

from shared.doorbells import make_celery
from shared.settings import Settings
from shared.store.key_names import PREFIX
from sightline.receiver import Receiver
from sightline.stack import Stack
from tests.chaos import clocked, mined
from tests.chaos.faults import Faults, schedule
from tests.chaos.history import History, Told
from tests.chaos.load import OTHER_MODEL, Load, wishes
from tests.chaos.prometheus import Prometheus
from tests.chaos.rig import Rig, quiet_port
from tests.ports import block_of_ports

OTHER_PARTS = 3  #: beside the workers: gateway, batch runner, sender
#: After the last fault every job must end within three leases and this.
SETTLE_S = 30.0
TAIL_S = 3.0
#: Lines in the workers' logs that tell what the faults led to.
EVENTS = (
    "consumer.died",
    "job.lost",
    "job.retried",
    "job.crashed",
    "job.handed_back",
    "storage.failed",
    "store.unreachable",
    "engine.restarting",
)


def say(line: str) -> None:
    """Tell people how far it is."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")


class MinedStack(Stack):
    """The parts as they are, but with mines in those that hold jobs, and where it is wanted a Redis whose clock can be set."""

    def spawn(self, name: str, module: str, *args: str) -> subprocess.Popen[bytes]:
        """Start one part."""
        if module in {"api.main", "worker.main"}:
            return super().spawn(name, "tests.chaos.mined", module, *args)
        if name == "redis" and clocked.FILE in self.environment:
            return super().spawn(name, "tests.chaos.clocked", *args)
        return super().spawn(name, module, *args)


def make_stack(folder: Path, *, workers: int, seed: int, **settings: str) -> Stack:
    """Make a stack on ports that the kernel gives to nobody while a part is down."""
    rng = random.Random(time.time_ns() ^ seed)
    redis_port = quiet_port(rng)
    (folder / "mines").mkdir()
    own = {"SIGHTLINE_REDIS_URL": f"redis://127.0.0.1:{redis_port}/0", mined.FOLDER: str(folder / "mines"), **settings}
    stack = MinedStack(folder, port=quiet_port(rng), settings=own, workers=workers)
    stack.redis_port = redis_port
    return stack


class Trial:
    """Starts the system, plays clients and faults against it, and waits until all has ended."""

    def __init__(
        self, folder: Path, *, seed: int, workers: int, rate: float, lease_s: float, plan: str = "", is_scraped: bool = False
    ) -> None:
        self.folder = folder
        self.models: tuple[str | None, ...] = (None, OTHER_MODEL) if plan == "models" else (None,)
        self.slow_s = 2 * lease_s + 2 if plan in {"outage", "clock"} else 2.0  #: so that many are in hand when an outage begins
        self._clock = folder / "clock"
        self._clock.write_text("+0")
        self.seed = seed
        self.rate = rate
        self.lease_s = lease_s
        self.history = History()
        self.metrics = ""  #: what the gateway shows at the end
        self._metrics_port = block_of_ports(OTHER_PARTS + workers) if is_scraped else 0
        self.stack = make_stack(
            folder,
            workers=workers,
            seed=seed,
            SIGHTLINE_ENGINE="tests.double:DoubleEngine",
            SIGHTLINE_ALLOW_NETWORKS="127.0.0.0/8",
            SIGHTLINE_DECODE_PROCESSES="1",
            SIGHTLINE_MAX_NUM_SEQS="8",
            SIGHTLINE_LEASE_S=str(lease_s),
            SIGHTLINE_DRAIN_S="1",  # shorter than the slow jobs: some are handed back
            SIGHTLINE_WEBHOOK_TIMEOUT_S="3",
            SIGHTLINE_METRICS_PORT=str(self._metrics_port),
            **({clocked.FILE: str(self._clock)} if plan == "clock" else {}),
        )
        self.facts: dict[str, Any] = {"seed": seed, "rate_per_s": rate, "workers": workers, "lease_s": lease_s}

    def run(self, counts: dict[str, int], *, seconds: float) -> None:
        """Run it all; the history and the facts hold what came of it."""
        with Receiver(self.stack.secret, now_s=self._now_s) as receiver, self.stack:
            self.stack.wait_ready()
            with self._scraping() as prometheus:
                asyncio.run(self._run(counts, seconds, receiver))
                if prometheus:
                    self.facts |= prometheus.figures(self.history)

    def _scraping(self) -> AbstractContextManager[Prometheus | None]:
        if not self._metrics_port:
            return nullcontext()
        ports = range(self._metrics_port, self._metrics_port + OTHER_PARTS + self.stack.workers)
        return Prometheus(self.folder, self.stack.port, list(ports))

    def _now_s(self) -> float:
        """Give the world's time, which is Redis's: it is Redis that is right when its clock is set."""
        return time.time() + float(self._clock.read_text())

    async def _run(self, counts: dict[str, int], seconds: float, receiver: Receiver) -> None:
        workers = [name for name in self.stack.processes if name.startswith("worker-")]
        self.rig = rig = Rig(self.stack, workers)
        self.load = load = Load(self.stack.url, receiver.url, self.history)
        app = make_celery(Settings(redis_url=self.stack.environment["SIGHTLINE_REDIS_URL"]))
        self.faults = Faults(rig, self.history, app, load.recent, seed=self.seed, lease_s=self.lease_s)
        for name in self.stack.processes:
            await rig.up(name)
        say(f"up: {len(workers)} workers, lease {self.lease_s:g} s, {self.rate:g} jobs/s for {seconds:.0f} s, seed {self.seed}")
        began, aside = time.monotonic(), [asyncio.create_task(rig.watch()), asyncio.create_task(self._tell())]
        drawn = wishes(self.seed, rate=self.rate, seconds=seconds + TAIL_S, models=self.models, slow_s=self.slow_s)
        await asyncio.gather(load.play(drawn), self.faults.play(schedule(self.seed, counts, seconds=seconds)))
        say("no more faults")
        await load.finish(within_s=3 * self.lease_s + SETTLE_S)
        await self._settle()
        self.history.told = [Told(told.id, told.job["id"], told.type.removeprefix("job.")) for told in receiver.received]
        await load.read_all()
        self.metrics = (await asyncio.to_thread(httpx.get, f"{self.stack.url}/metrics")).text
        self.history.leases = await rig.running()
        await self._count(time.monotonic() - began)
        for task in aside:
            task.cancel()
        await asyncio.gather(*aside, return_exceptions=True)
        await load.close()
        await rig.redis.aclose()
        app.close()

    async def _settle(self) -> None:
        """Wait for the jobs that no client follows, and for the webhooks."""
        until = time.monotonic() + SETTLE_S
        while time.monotonic() < until and (  # noqa: ASYNC110  # nobody tells
            await self.rig.waiting() or await self.rig.running() or await self.rig.insist(self.rig.redis.zcard, f"{PREFIX}due")
        ):
            await asyncio.sleep(0.2)

    async def _count(self, seconds: float) -> None:
        redis = self.rig.redis
        notices = [json.loads(await redis.get(key) or "{}") for key in await redis.keys(f"{PREFIX}worker:*")]
        stats: dict[str, Any] = await redis.info("commandstats")  # since its last restart
        n_rung = int(stats.get("cmdstat_lpush", {}).get("calls", 0))
        restarts = sum(notice.get("engine_restarts", 0) for notice in notices)
        gone = Counter(self.rig.unplanned)
        logs = "".join(path.read_text(errors="replace") for path in (self.folder / "logs").glob("*.log"))
        self.facts |= {
            "seconds": round(seconds),
            "valkey": (await redis.info("server")).get("valkey_version"),
            "requests_unanswered": self.load.unanswered,
            "extra_doorbells": max(0, n_rung - len(self.load.recent) - self.faults.rung),
            "stolen_doorbells": self.faults.stolen,
            "false_doorbells": self.faults.rung,
            "engine_reloads": restarts + sum(n for name, n in gone.items() if name in self.rig.workers),
            "unplanned_exits": dict(gone),
            "mines_missed": self.faults.missed,
            "in_hand_at_outages": self.faults.in_hand,
            "log_events": {event: n for event in EVENTS if (n := logs.count(f'"{event}"'))},
        }

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(10)
            try:
                where = f"queued {await self.rig.waiting()}, running {len(await self.rig.running())}"
            except RedisError:
                where = "Redis is away"
            say(f"{len(self.load.recent)} accepted, {len(self.load.open)} open, {where}, {len(self.history.faults)} faults")
