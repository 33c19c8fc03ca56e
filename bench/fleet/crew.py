"""Played workers, as many as wanted in one process, until it is killed: ``python -m bench.fleet.crew REDIS_URL NAME``.

Their plan is a line of JSON on standard input. They ask, beat, tell stages and end jobs by the worker's own code; a job only
takes its time. What they leave out is Celery's consumer (bells are heard by a plain BLPOP), media, engine and files.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import accumulate

from bench.redis_cost.player import REQUEST, output_facts
from shared.aio import Background, cancel_all
from shared.doorbells import queue_of
from shared.jobs import JobRequest, JobStatus, Output, Stage
from shared.settings import Settings
from shared.store.claims import Claim
from shared.store.connection import Client, connect
from shared.store.ids import new_id
from shared.store.jobs import JobStore
from shared.store.key_names import bell_prefix
from shared.store.workers import WorkerRegistry
from worker.claiming import Asking, Places
from worker.endings import wait_for_others
from worker.running_job import Running
from worker.stages import Stages

OUTPUT = Output.model_validate(output_facts("chinese"))
JITTER = 0.5  #: share by which a job may take more or less, so that ends are spread
MOST_QUEUED = 10**8


@dataclass(frozen=True)
class Plan:
    """How a crew works."""

    workers: int = 1
    places: int = 128  #: jobs that one worker has in flight
    run_s: float = 8.0  #: what a job takes
    #: Owners and weights: each job that ends is followed by a new one of such an owner, so that the queue stays as long.
    owners: tuple[tuple[str, int], ...] = ()


class PlayedWorker:
    """One worker; :meth:`run` must run."""

    def __init__(
        self, settings: Settings, redis: Client, name: str, plan: Plan, on_end: Callable[[Claim], object] = lambda _: None
    ) -> None:
        """Wire it.

        Args:
            settings: model, lease.
            redis: of this worker alone, as a process has its own.
            name: under which it claims.
            plan: places, and what a job takes.
            on_end: hears of each job that it has ended.
        """
        self._settings, self._redis, self._name, self._plan, self._on_end = settings, redis, name, plan, on_end
        self.store, self._registry = JobStore(redis), WorkerRegistry(redis)
        self.in_flight: dict[str, Running] = {}
        self._background = Background()
        self._hungry = asyncio.Event()
        self._asking = Asking(settings, self.store, name, places=self._places, start=self._start, on_hunger=self._on_hunger)
        self._stages = Stages(self.store, name, self.in_flight)

    async def run(self) -> None:
        """Work until cancelled, and leave without a word."""
        await self.store.hang_bell(self._settings.served_model_name, "there is work")
        chores = {asyncio.create_task(chore()) for chore in (self._asking.run, self._stages.write, self._beat, self._listen)}
        try:
            await asyncio.gather(*chores)
        finally:
            await cancel_all(chores)
            await self._background.cancel()

    def _places(self) -> Places:
        free = self._plan.places - sum(running.needs_place for running in self.in_flight.values())
        return Places(free, free, free)

    def _on_hunger(self, is_hungry: bool) -> None:  # noqa: FBT001
        (self._hungry.set if is_hungry else self._hungry.clear)()

    def _start(self, claim: Claim) -> None:
        running = Running(claim)
        self.in_flight[claim.job_id] = running
        running.task = self._background.add(self._run(running))

    async def _run(self, running: Running) -> None:
        run_s = self._plan.run_s * random.uniform(1 - JITTER, 1 + JITTER)
        for stage, share in ((Stage.DECODING, 0.1), (Stage.GENERATING, 0.9)):
            self._stages.enter(running, stage)
            await asyncio.sleep(run_s * share)
        running.settling = True
        await wait_for_others(running, len(self.in_flight), self._asking.free)
        await self.store.complete(running.claim, JobStatus.SUCCEEDED, output=OUTPUT, error=None)
        del self.in_flight[running.claim.job_id]
        self._asking.free()
        self._on_end(running.claim)

    async def _beat(self) -> None:
        """Once a second: the lease, the notice, and what is due for the fleet."""
        notice = {"name": self._name, "phase": "ready", "model": self._settings.served_model_name}
        while True:
            claims = [running.claim for running in self.in_flight.values()]
            await self.store.beat(self._name, claims, lease_s=self._settings.lease_s)
            await self._registry.heartbeat(self._name, notice, ttl_s=self._settings.lease_s)
            if await self.store.is_my_turn("rescue", self._settings.rescue_every_s):
                await self.store.rescue(self._settings)
                await self.store.fail_overdue()
            await asyncio.sleep(1)

    async def _listen(self) -> None:
        bells = f"{bell_prefix()}{queue_of(self._settings.served_model_name)}"
        while True:
            await self._hungry.wait()
            if await self._redis.blpop([bells], timeout=1):  # type: ignore[misc]
                self._asking.ring()


async def _work(redis_url: str, name: str, plan: Plan) -> None:
    settings = Settings(redis_url=redis_url, max_queued=MOST_QUEUED)
    gateway, background = JobStore(connect(settings)), Background()
    request, (owners, weights) = JobRequest.model_validate(REQUEST), zip(*plan.owners, strict=True)
    up_to = list(accumulate(weights))

    async def submit() -> None:
        (owner,) = random.choices(owners, cum_weights=up_to)
        await gateway.submit(request, settings, owner=owner, job_id=new_id("job"))

    make = partial(PlayedWorker, plan=plan, on_end=lambda _: background.add(submit()))
    crew = [make(settings, connect(settings), f"{name}:{n}") for n in range(plan.workers)]
    print("ready", flush=True)
    await asyncio.gather(*(worker.run() for worker in crew))


def start(redis_url: str, name: str, plan: Plan) -> subprocess.Popen[str]:
    """Start a process, and wait until its workers work."""
    command = [sys.executable, "-m", "bench.fleet.crew", redis_url, name]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
    process.stdin.write(json.dumps(asdict(plan)) + "\n")  # type: ignore[union-attr]
    process.stdin.flush()  # type: ignore[union-attr]
    process.stdout.readline()  # type: ignore[union-attr]
    return process


def main() -> None:
    """Work until killed."""
    os.nice(10)  # behind the server
    redis_url, name = sys.argv[1:]
    asyncio.run(_work(redis_url, name, Plan(**json.loads(sys.stdin.readline()))))


if __name__ == "__main__":
    main()
