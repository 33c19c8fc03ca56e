"""A worker's life on one event loop: its engine, the heartbeat of its jobs' leases, rescues, notices and the way out."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog
from redis.exceptions import RedisError

from shared.aio import cancel_all
from shared.errors import StorageUnavailable
from shared.jobs import Priority, Stage
from shared.settings import Settings
from shared.store.clock import Watch
from shared.store.connection import connect
from shared.store.log import log_trouble
from shared.store.presence import Presence
from shared.store.workers import WorkerRegistry
from worker.engines.base import Engine
from worker.gpus import Gpu
from worker.janitor import Janitor
from worker.liveness import Liveness
from worker.media.gate import MediaGate
from worker.phase import Phase, Readiness
from worker.runner import Runner
from worker.supervisor import EngineSupervisor

log = structlog.get_logger()

#: A client sees the end of retention at once; what is left is cleared away soon after.
PURGE_EVERY_S = 5.0
#: How often a worker asks whether it is time to sweep, and whether it is the one to do it.
LOOK_FOR_SWEEP_EVERY_S = 60.0
#: A chore that crashed so often in a row will not mend itself; leases are not kept by a worker that cannot say so.
MAX_CRASHES = 5
#: A chore that has not failed for so long is not failing, though its run, as that of one that listens, may never end.
FAILING_S = 2 * LOOK_FOR_SWEEP_EVERY_S


class Runtime:
    """Owns the engine, and the runner of the jobs in flight. Lives on one event loop, whatever happens to Celery."""

    def __init__(self, settings: Settings, make_engine: Callable[[], Engine], *, gpus: Sequence[Gpu] = ()) -> None:
        """Wire the parts together; :meth:`serve` starts them.

        Args:
            settings: leases, time-outs, limits.
            make_engine: makes an engine that is not started yet.
            gpus: those that this worker has taken; they stand in its notice.
        """
        # Host and pid are for people; containers can share both, so the rest makes it this worker's alone.
        self.name = f"{socket.gethostname()}:{os.getpid()}-{secrets.token_hex(4)}"
        self.readiness = Readiness()
        self.ready = self.readiness.event
        self._announcing: asyncio.Task[None] | None = None
        self._settings = settings
        self._gpus = [asdict(gpu) for gpu in gpus]
        self._supervisor = EngineSupervisor(settings, make_engine)
        self._liveness = Liveness(self.name, settings.redis_url)
        self._redis = connect(settings)
        self._registry = WorkerRegistry(self._redis)
        self._clock = Watch(self._redis)
        self._presence = Presence(self._redis, "jobs")
        self.runner = Runner(settings, self.name, self._supervisor, self.readiness, self._redis)
        self._store, self._doorbell, self._blobs = self.runner.store, self.runner.doorbell, self.runner.blobs
        self._janitor = Janitor(settings, self._redis, self._blobs)
        self._failed_at: dict[str, float] = {}  #: chores whose last run failed, and when
        self.run = self.runner.run

    async def serve(self) -> None:
        """Load the engine, then keep leases, rescues and notices going until cancelled.

        Raises:
            StoreUnsafe: Redis could lose jobs.
            EngineUnavailable: the engine cannot start here, or dies too often.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._redis.aclose)
            stack.push_async_callback(self.runner.background.cancel)
            stack.push_async_callback(self._supervisor.close)
            await self._check_store()
            self._liveness.hold()
            stack.callback(self._liveness.release)
            self._announcing = asyncio.create_task(self._repeat(self._announce, every_s=1.0))
            chores = {self._announcing, *(asyncio.create_task(keep()) for keep in (self._clock.keep, self._presence.keep))}
            stack.push_async_callback(cancel_all, chores)
            self.readiness.suspend()
            await self._supervisor.start()
            limits = self._supervisor.engine.limits
            self.runner.gate = await stack.enter_async_context(MediaGate(self._settings, self._blobs, limits))
            self.readiness.resume()
            beat_s = min(1.0, self._settings.lease_s / 4)
            chores.add(asyncio.create_task(self._keep_engine()))
            chores.add(asyncio.create_task(self._repeat(self._beat, every_s=beat_s)))
            chores.add(asyncio.create_task(self._repeat(self._rescue, every_s=self._settings.rescue_every_s)))
            chores.add(asyncio.create_task(self._repeat(self._janitor.purge, every_s=PURGE_EVERY_S, vital=False)))
            chores.add(asyncio.create_task(self._repeat(self._janitor.sweep, every_s=LOOK_FOR_SWEEP_EVERY_S, vital=False)))
            chores.add(asyncio.create_task(self._repeat(self._hear_cancels, every_s=1.0, vital=False)))
            chores.add(asyncio.create_task(self._repeat(self.runner.text_streams.write, every_s=1.0)))
            await self._watch(chores)

    async def _watch(self, chores: set[asyncio.Task[None]]) -> None:
        """Wait until a chore ends, which none should, and raise why; draining ends the notices."""
        left = set(chores)
        while left:
            ended, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            for chore in ended:
                if not chore.cancelled():
                    chore.result()
                elif self.readiness.phase is not Phase.DRAINING:
                    msg = f"{chore.get_name()} was cancelled"
                    raise RuntimeError(msg)

    async def _check_store(self) -> None:
        while True:
            try:
                return await self._store.check_safety()
            except RedisError as error:
                log_trouble(error, chore="start")
                await asyncio.sleep(1.0)

    async def drain(self) -> None:
        """Take no more jobs; wait for those in flight, then hand back what the grace time did not finish."""
        self.readiness.leave()
        await self.runner.leave()
        await cancel_all({self._announcing} if self._announcing else set())  # else it would put the notice back
        with suppress(RedisError):
            await self._registry.retire(self.name)

    # --- chores ---

    async def _keep_engine(self) -> None:
        while True:
            reason = await self._supervisor.wait_for_death()
            self.readiness.suspend()
            in_engine = [running for running in self.runner.in_flight.values() if running.stage is Stage.GENERATING]
            for running in in_engine:
                self.runner.stop(running, "engine")
            await asyncio.gather(*(running.task for running in in_engine), return_exceptions=True)
            await self._supervisor.restart(reason)
            self.readiness.resume()

    async def _repeat(self, chore: Callable[[], Coroutine[Any, Any, None]], *, every_s: float, vital: bool = True) -> None:
        """Run a chore again and again; one that fails is logged, told in the worker's notice, and begun again.

        Args:
            chore: what to run.
            every_s: the pause between two runs.
            vital: the worker ends when it crashes :data:`MAX_CRASHES` times in a row, rather than go on without it.
        """
        name, crashes = chore.__name__.strip("_"), 0
        while True:
            try:
                await chore()
                crashes = 0
                self._failed_at.pop(name, None)
            except (RedisError, OSError) as error:
                log_trouble(error, chore=name)
                self._failed_at[name] = time.monotonic()
            except StorageUnavailable:  # its place and the reason are in the log
                self._failed_at[name] = time.monotonic()
            except (Exception, asyncio.CancelledError):
                if (task := asyncio.current_task()) and task.cancelling():
                    raise  # it is the chore that is to end, and nothing that it waited for
                crashes += 1
                log.exception("chore.crashed", chore=name, times=crashes)
                self._failed_at[name] = time.monotonic()
                if vital and crashes >= MAX_CRASHES:
                    raise
            await asyncio.sleep(every_s)

    async def _announce(self) -> None:
        health = await self._supervisor.health()
        facts = {
            "name": self.name,
            "phase": self.readiness.phase,
            "model": self._settings.served_model_name,
            "checkpoint": Path(self._settings.model).name,
            "clock_skew_s": round(self._clock.skew_s, 1),
            "gpus": self._gpus,
            "engine": self._supervisor.engine.info.model_dump(),
            "jobs_in_flight": len(self.runner.in_flight),
            "places": self._settings.in_flight,
            "engine_running": health.running,
            "engine_waiting": health.waiting,
            "engine_running_peak": health.running_peak,
            "engine_restarts": self._supervisor.restarts,
            "failing_chores": [name for name, at in self._failed_at.items() if time.monotonic() - at < FAILING_S],
        }
        await self._registry.announce(self.name, facts, ttl_s=max(5.0, self._settings.lease_s))

    async def _beat(self) -> None:
        held = list(self.runner.in_flight.values())
        answers = await self._store.beat([(r.claim, r.stage) for r in held], lease_s=self._settings.lease_s)
        for running, answer in zip(held, answers, strict=True):
            if answer == "cancel":
                self.runner.stop(running, "client")
            elif answer == "lost":
                self.runner.stop(running, "lease")

    async def _hear_cancels(self) -> None:
        async with aclosing(self._store.cancels()) as cancels:
            async for job_id in cancels:
                if running := self.runner.in_flight.get(job_id):
                    self.runner.stop(running, "client")

    async def _rescue(self) -> None:
        if not self.readiness.takes_jobs:
            return
        await self._beat()  # what this worker holds is its own, however long it could not say so
        # The second half is kept for these: a worker with a backlog is always full, and they have waited longer than others.
        dead, room = self._liveness.dead(), max(0, 2 * self._settings.in_flight - len(self.runner.in_flight))
        for priority in Priority:
            known = dead if priority is Priority.INTERACTIVE else ()  # told once: their jobs of every class are looked at
            found = await self._store.rescue(self._settings, priority, dead=known, room=room)
            # Here and now rather than by a doorbell, which would lie behind those of the backlog, and can be lost once more.
            for n, job_id in enumerate(found):
                self.runner.background.add(self.runner.run(job_id) if n < room else self._doorbell.ring_job(job_id, priority))
            room = max(0, room - len(found))
        for n, (job_id, priority) in enumerate(await self._store.turns()):
            self.runner.background.add(
                self.runner.run(job_id) if n < room else self._doorbell.ring_job(job_id, priority, first=True)
            )
        await self._store.fail_overdue()
        self._liveness.bury(dead)
