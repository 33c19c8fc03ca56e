"""A worker's life on one event loop: its engine, its lease and heartbeat, rescues, and the way out."""

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
from shared.doorbells import bell_message
from shared.errors import StorageUnavailable
from shared.settings import Settings
from shared.store.check import StoreCheck
from shared.store.clock import Watch
from shared.store.connection import connect
from shared.store.presence import Presence
from shared.store.trouble_log import log_trouble
from shared.store.workers import WorkerRegistry
from worker.attempt import tell_lost
from worker.engines.base import Engine
from worker.gpus import Gpu
from worker.janitor import Janitor
from worker.liveness import Liveness
from worker.media.loader import MediaLoader
from worker.metrics import WorkerMetrics
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
    """Owns the engine, and the runner of the jobs in flight; its event loop outlives the consumer of doorbells."""

    def __init__(
        self,
        settings: Settings,
        make_engine: Callable[[], Engine],
        *,
        gpus: Sequence[Gpu] = (),
        on_hunger: Callable[[bool], None] = lambda _: None,
        on_order: Callable[[], None] = lambda: None,
    ) -> None:
        """Wire the parts together; :meth:`serve` starts them.

        Args:
            settings: leases, time-outs, limits.
            make_engine: makes an engine that is not started yet.
            gpus: those that this worker has taken; they stand in its heartbeat.
            on_hunger: hears whether doorbells are for this worker.
            on_order: hears, once, that somebody wants this worker to drain.
        """
        # Host and pid are for people; containers can share both, so the rest makes it this worker's alone.
        self.name = f"{socket.gethostname()}:{os.getpid()}-{secrets.token_hex(4)}"
        self.readiness = Readiness()
        self.ready = self.readiness.event
        self._beating: asyncio.Task[None] | None = None
        self._settings = settings
        self._on_order, self._has_order = on_order, False
        self._gpus = [asdict(gpu) for gpu in gpus]
        self._supervisor = EngineSupervisor(settings, make_engine)
        self._liveness = Liveness(self.name, settings.redis_url)
        self._redis = connect(settings)
        self._registry = WorkerRegistry(self._redis)
        self._clock = Watch(self._redis)
        self._presence = Presence(self._redis, "jobs")
        self.runner = Runner(settings, self.name, self._supervisor, self.readiness, self._redis, on_hunger)
        self._store, self._blobs = self.runner.store, self.runner.blobs
        self._bell = bell_message(settings)
        self._janitor = Janitor(settings, self._redis, self._blobs)
        self._failed_at: dict[str, float] = {}  #: chores whose last run failed, and when
        self.ring = self.runner.asking.ring

    async def serve(self) -> None:
        """Load the engine, then keep leases, rescues and heartbeats going until cancelled.

        Raises:
            StoreUnsafe: Redis could lose jobs.
            EngineUnavailable: the engine cannot start here, or dies too often.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._redis.aclose)
            stack.push_async_callback(self._supervisor.close)
            await StoreCheck(self._redis).until_safe()
            metrics = WorkerMetrics(self.runner.in_flight, self._settings.in_flight, self.readiness, self._supervisor)
            stack.callback(metrics.close)
            self._liveness.hold()
            stack.callback(self._liveness.release)
            # Closed after what follows here: a job that goes on, or is asked for, would start a decoder that nobody ends.
            loaders = await stack.enter_async_context(AsyncExitStack())
            stack.push_async_callback(self.runner.background.cancel)
            self._beating = asyncio.create_task(self._repeat(self._heartbeat, every_s=1.0))
            chores = {self._beating, *(asyncio.create_task(keep()) for keep in (self._clock.keep, self._presence.keep))}
            stack.push_async_callback(cancel_all, chores)
            self.readiness.suspend()
            await self._supervisor.start()
            limits = self._supervisor.engine.limits
            self.runner.media_loader = await loaders.enter_async_context(MediaLoader(self._settings, self._blobs, limits))
            self.readiness.resume()
            beat_s = min(1.0, self._settings.lease_s / 4)
            chores.add(asyncio.create_task(self._keep_engine()))
            chores.add(asyncio.create_task(self._repeat(self._beat, every_s=beat_s)))
            chores.add(asyncio.create_task(self._repeat(self._rescue, every_s=self._settings.rescue_every_s)))
            chores.add(asyncio.create_task(self._repeat(self._janitor.purge, every_s=PURGE_EVERY_S, vital=False)))
            chores.add(asyncio.create_task(self._sweep()))
            chores.add(asyncio.create_task(self._repeat(self._hear_cancels, every_s=1.0, vital=False)))
            chores.add(asyncio.create_task(self._repeat(self.runner.text_streams.write, every_s=1.0)))
            chores.add(asyncio.create_task(self._repeat(self.runner.stages.write, every_s=1.0)))
            chores.add(asyncio.create_task(self._repeat(self.runner.ask, every_s=1.0)))
            await self._watch(chores)

    async def _watch(self, chores: set[asyncio.Task[None]]) -> None:
        """Wait until a chore ends, which none should, and raise why; draining ends the heartbeats."""
        left = set(chores)
        while left:
            ended, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            for chore in ended:
                if not chore.cancelled():
                    chore.result()
                elif self.readiness.phase is not Phase.DRAINING:
                    msg = f"{chore.get_name()} was cancelled"
                    raise RuntimeError(msg)

    async def drain(self) -> None:
        """Take no more jobs; wait for those in flight, then hand back what the grace time did not finish."""
        self.readiness.leave()
        await self.runner.leave()
        await cancel_all({self._beating} if self._beating else set())  # else it would put the heartbeat back
        with suppress(RedisError):
            await self._registry.retire(self.name)
            await self._store.leave(self.name, self._settings.served_model_name)

    # --- chores ---

    async def _keep_engine(self) -> None:
        while True:
            reason = await self._supervisor.wait_for_death()
            death = self.runner.engine_died()
            await asyncio.gather(*(running.task for running in death.in_engine), return_exceptions=True)
            await self._supervisor.restart(reason)
            self.readiness.resume()
            self.ring()

    async def _sweep(self) -> None:
        await asyncio.sleep(LOOK_FOR_SWEEP_EVERY_S)  # beside a gateway that starts now, and makes the folder
        await self._repeat(self._janitor.sweep, every_s=LOOK_FOR_SWEEP_EVERY_S, vital=False)

    async def _repeat(self, chore: Callable[[], Coroutine[Any, Any, None]], *, every_s: float, vital: bool = True) -> None:
        """Run a chore again and again; one that fails is logged, named in the worker's heartbeat, and begun again.

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

    async def _heartbeat(self) -> None:
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
        is_to_drain = await self._registry.heartbeat(self.name, facts, ttl_s=max(5.0, self._settings.lease_s))
        if is_to_drain and not self._has_order:
            self._has_order = True
            log.info("worker.told_to_drain", worker=self.name)
            self._on_order()

    async def _beat(self) -> None:
        runner = self.runner
        held = list(runner.in_flight.values())
        beat = await self._store.beat(self.name, [running.claim for running in held], lease_s=self._settings.lease_s)
        lost = {claim.job_id: claim.fence for claim in beat.lost}
        for running in held:
            if lost.get(running.claim.job_id) == running.claim.fence:
                runner.stop(running, "lease")
            elif running.claim.job_id in beat.cancelled:
                runner.stop(running, "client")
        for job_id, fence in beat.unknown.items():
            if job_id not in runner.in_flight and not runner.asking.is_asking:
                log.warning("job.handed_back", why="unknown", job_id=job_id)
                await self._store.release_held(self.name, job_id, fence)

    async def _hear_cancels(self) -> None:
        async with aclosing(self._store.cancels()) as cancels:
            async for job_id in cancels:
                if running := self.runner.in_flight.get(job_id):
                    self.runner.stop(running, "client")

    async def _rescue(self) -> None:
        if not self.readiness.takes_jobs:
            return
        dead = self._liveness.dead()
        await self._store.hang_bell(self._settings.served_model_name, self._bell)  # this Redis may have lost it
        if dead or await self._store.is_my_turn("rescue", self._settings.rescue_every_s):
            await self._beat()  # what this worker holds is its own, however long it could not say so
            await self._store.rescue(self._settings, dead=dead, on_lost=tell_lost)
            await self._store.fail_overdue()
        self._liveness.bury(dead)
