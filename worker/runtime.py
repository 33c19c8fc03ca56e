"""The loop that runs jobs: many at a time on one engine, each under a lease that one heartbeat renews."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal

import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.aio import cancel_all
from shared.blobs import Blobs, inline_name
from shared.database import connect, new_id
from shared.errors import CancelledByClient, EngineFailed, PoisonInput, RunTimeout, SightlineError
from shared.event_log import EventLog
from shared.jobs import JobStatus, Output, Priority, Stage, media_parts
from shared.queue import Doorbell
from shared.roster import Roster
from shared.settings import Settings
from shared.store import Claim, JobStore
from worker.admission import Admission, Memory, vision_tokens
from worker.engines.base import Engine, EngineDead
from worker.gpus import Gpu
from worker.keeper import Keeper
from worker.lifeline import Lifeline
from worker.media import MediaGate, reference_of
from worker.speech import Speeches
from worker.turnstile import Turnstile

log = structlog.get_logger()

#: How long a finished job's output is held while Redis is away.
INSIST_S = 120.0
#: An abort is answered within a step of the engine; a request that was still being rendered is cancelled after this.
ABORT_S = 1.0
#: What a worker that leaves gives its last writes.
LEAVE_S = 5.0
#: A client sees the end of retention at once; what is left is cleared away soon after.
PURGE_EVERY_S = 5.0
SWEEP_EVERY_S = 600.0
#: A job in whose company an engine died, and then died again with it alone, gets one more try alone.
MAX_ENGINE_DEATHS = 3


#: A job goes behind newer ones of a more urgent class for this long, so that none starves in the engine.
GRACE_S = {Priority.INTERACTIVE: 0, Priority.DEFAULT: 10, Priority.BULK: 60}


def urgency(claim: Claim) -> int:
    """Rank a job among those that wait for decoders or the engine, smaller first: by age, with a handicap for its class."""
    return int((claim.created_at + GRACE_S[claim.priority]) * 1000)


class Phase(StrEnum):
    """What a worker is doing; published, so that a slow start cannot be taken for a hang."""

    STARTING = "starting"
    LOADING = "loading"  #: the engine reads the weights and warms up, at the start or after a death
    READY = "ready"
    DRAINING = "draining"  #: takes no more jobs, finishes those in flight


@dataclass
class Running:
    """A claimed job in flight."""

    claim: Claim
    task: asyncio.Task[None]
    stage: Stage = Stage.FETCHING
    timings_ms: dict[str, int] = field(default_factory=dict)
    #: Who stops it before its end: its client, its lease that went to another worker, or the engine's death.
    stopped_by: Literal["client", "lease", "engine"] | None = None
    settling: bool = False  #: its end is being written; from here on nothing may stop it

    @property
    def request_id(self) -> str:
        """The engine's name for this attempt."""
        return f"{self.claim.job_id}-{self.claim.fence}"


class Runtime:
    """Owns the engine, the media gate and the jobs in flight. Lives on one event loop, whatever happens to Celery."""

    def __init__(self, settings: Settings, make_engine: Callable[[], Engine], *, gpus: Sequence[Gpu] = ()) -> None:
        """Wire the parts together; :meth:`serve` starts them.

        Args:
            settings: leases, time-outs, limits.
            make_engine: makes an engine that is not started yet.
            gpus: those that this worker has taken; they stand in its notice.
        """
        # Host and pid are for people; containers can share both, so the rest makes it this worker's alone.
        self.name = f"{socket.gethostname()}:{os.getpid()}-{secrets.token_hex(4)}"
        self.phase = Phase.STARTING
        self.ready = asyncio.Event()
        self._idle = asyncio.Event()
        self._settings = settings
        self._gpus = [asdict(gpu) for gpu in gpus]
        self._keeper = Keeper(settings, make_engine)
        self._memory = Memory(settings)
        self._admission = Admission(settings.max_num_batched_tokens)
        self._turnstile = Turnstile()
        self._bulk_slots = asyncio.Semaphore(settings.bulk_slots)
        self._lifeline = Lifeline(self.name, settings.redis_url)
        self._redis = connect(settings)
        self._doorbell = Doorbell(settings, self._redis)
        self._store = JobStore(self._redis)
        self._speeches = Speeches(EventLog(self._redis))
        self._roster = Roster(self._redis)
        self._blobs = Blobs(settings.blobs_url)
        self._running: dict[str, Running] = {}
        self._chores: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Load the engine, then keep leases, rescues and notices going until cancelled.

        Raises:
            StoreUnsafe: Redis could lose jobs.
            EngineUnavailable: the engine cannot start here, or dies too often.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._redis.aclose)
            stack.push_async_callback(cancel_all, self._chores)
            stack.push_async_callback(self._keeper.close)
            await self._check_store()
            self._lifeline.hold()
            stack.callback(self._lifeline.release)
            chores = {asyncio.create_task(self._repeat(self._announce, every_s=1.0))}
            stack.push_async_callback(cancel_all, chores)
            self.phase = Phase.LOADING
            await self._keeper.start()
            limits = self._keeper.engine.limits
            self._gate = await stack.enter_async_context(MediaGate(self._settings, self._blobs, limits))
            self._resume()
            beat_s = min(1.0, self._settings.lease_s / 4)
            chores.add(asyncio.create_task(self._keep_engine()))
            chores.add(asyncio.create_task(self._repeat(self._beat, every_s=beat_s)))
            chores.add(asyncio.create_task(self._repeat(self._rescue, every_s=self._settings.rescue_every_s)))
            chores.add(asyncio.create_task(self._repeat(self._purge, every_s=PURGE_EVERY_S)))
            chores.add(asyncio.create_task(self._repeat(self._sweep, every_s=SWEEP_EVERY_S)))
            chores.add(asyncio.create_task(self._repeat(self._hear_cancels, every_s=1.0)))
            chores.add(asyncio.create_task(self._repeat(self._speeches.write, every_s=1.0)))
            ended, _ = await asyncio.wait(chores, return_when=asyncio.FIRST_EXCEPTION)
            for chore in ended:
                chore.result()

    async def _check_store(self) -> None:
        while True:
            try:
                return await self._store.check_safety()
            except RedisError:
                log.warning("store.unreachable", chore="start")
                await asyncio.sleep(1.0)

    # --- one job ---

    async def run(self, job_id: str) -> None:
        """Claim a job and see it to its end; returns at once when there is nothing to claim.

        While the engine is loaded again the doorbell waits here: dropped, it would have to be rung once more.
        """
        await self.ready.wait()
        if not self._takes_jobs():
            return
        claim = await self._claim(job_id)
        if claim is None:
            return
        if not self._takes_jobs():  # SIGTERM, or the engine's death, came while the claim was under way
            await self._store.release(claim, "leave")
            return
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # a coroutine always runs in a task
        if stale := self._running.get(job_id):  # rescued while this worker was held up, and now back here
            self._stop(stale, "lease")
        running = self._running[job_id] = Running(claim, task)
        try:
            with structlog.contextvars.bound_contextvars(job_id=job_id, attempt=claim.attempt):
                await self._run_claimed(running)
        finally:
            if self._running.get(job_id) is running:
                del self._running[job_id]
            if not self._running:
                self._idle.set()

    async def _claim(self, job_id: str) -> Claim | None:
        """Claim a job, also when Redis is away for a while: a doorbell dropped would have to be rung once more."""
        token = new_id("claim")
        while self._takes_jobs():
            try:
                return await self._store.claim(job_id, worker=self.name, lease_s=self._settings.lease_s, token=token)
            except (RedisConnectionError, RedisTimeoutError):
                await asyncio.sleep(0.5)
        return None

    def _takes_jobs(self) -> bool:
        return self.phase is Phase.READY

    def _suspend(self) -> None:
        """Take no job until another engine is there: one that met the dead engine would be suspected for nothing."""
        if self._takes_jobs():
            self.phase = Phase.LOADING
            self.ready.clear()

    def _resume(self) -> None:
        if self.phase is Phase.LOADING:
            self.phase = Phase.READY
        self.ready.set()

    async def _run_claimed(self, running: Running) -> None:
        claim = running.claim
        try:
            outcome: Output | SightlineError = await self._produce(running)
        except asyncio.CancelledError:
            await asyncio.shield(self._settle_stopped(running))
            return
        except EngineDead:
            self._suspend()
            await self._settle_dead(running)
            return
        except SightlineError as error:
            outcome = error
        except Exception:  # the seam: whatever a library throws ends one job, not the worker
            log.exception("job.crashed")
            outcome = EngineFailed()
        if isinstance(outcome, Output):
            if outcome.finish_reason == "cancelled":
                await self._end(running, JobStatus.CANCELLED, output=outcome, error=CancelledByClient())
            else:
                await self._end(running, JobStatus.SUCCEEDED, output=outcome)
        elif outcome.retryable and claim.attempt < self._settings.max_attempts:
            log.info("job.retried", code=outcome.code)
            await self._insist(lambda: self._store.release(claim, "retry", after_s=2.0**claim.attempt))
        else:
            await self._end(running, JobStatus.FAILED, error=outcome)

    async def _produce(self, running: Running) -> Output:
        claim, began = running.claim, time.monotonic()
        running.timings_ms["queue"] = claim.queued_ms

        def at_stage(stage: Stage) -> None:
            running.stage = stage

        try:
            messages, rank = claim.request.conversation(), urgency(claim)
            async with asyncio.timeout(claim.run_timeout_s), self._memory.hold(messages) as on_bytes:
                conversation = await self._gate.load(
                    messages, on_stage=at_stage, timings_ms=running.timings_ms, urgency=rank, on_bytes=on_bytes
                )
                tokens = vision_tokens(conversation, self._keeper.engine.limits)
                async with (
                    self._bulk_slots if claim.priority is Priority.BULK else nullcontext(),
                    self._admission.inside(tokens, rank),
                    self._turnstile.alone() if claim.engine_deaths else self._turnstile.together(),
                ):
                    if self.phase is Phase.LOADING:
                        raise EngineDead  # it died before this job reached it
                    at_stage(Stage.GENERATING)
                    engine, sampling = self._keeper.engine, claim.request.sampling
                    async with self._speeches.of(claim) as on_text:
                        generation = await engine.generate(
                            conversation, sampling, request_id=running.request_id, urgency=rank, on_text=on_text
                        )
        except TimeoutError as error:
            msg = f"the job ran longer than its {claim.run_timeout_s} s"
            raise RunTimeout(msg) from error
        output = generation.output
        timings = running.timings_ms | output.timings_ms | {"total": round((time.monotonic() - began) * 1000)}
        return output.model_copy(update={"timings_ms": timings})

    async def _end(
        self, running: Running, status: JobStatus, *, output: Output | None = None, error: SightlineError | None = None
    ) -> None:
        claim, running.settling = running.claim, True
        written = await self._insist(lambda: self._store.complete(claim, status, output=output, error=error))
        facts = {"tokens": output.usage.output_tokens, **output.timings_ms} if output else {}
        log.info("job.ended" if written else "job.lost", status=status, code=error and error.code, **facts)
        if not written:
            return
        references = [reference_of(part) for _, part in media_parts(claim.request.conversation())]
        await self._blobs.delete(*(name.removeprefix("blob:") for name in references if name.startswith("blob:")))
        if claim.request.webhook:
            self._chore(self._doorbell.ring_webhook("evt_" + claim.job_id.removeprefix("job_")))

    async def _settle_stopped(self, running: Running) -> None:
        if running.stopped_by == "lease":
            log.warning("job.lost")
        elif running.stopped_by == "client":
            await self._end(running, JobStatus.CANCELLED, error=CancelledByClient())
        elif running.stopped_by == "engine":
            await self._settle_dead(running)
        else:  # the worker is leaving
            await self._store.release(running.claim, "leave")

    async def _settle_dead(self, running: Running) -> None:
        """Settle a job whose engine died: those in the engine are suspects, and only one that was alone can be the culprit."""
        claim = running.claim
        if running.stage is not Stage.GENERATING:
            await self._insist(lambda: self._store.release(claim, "leave"))
        elif claim.engine_deaths + 1 >= MAX_ENGINE_DEATHS:
            await self._end(running, JobStatus.FAILED, error=PoisonInput())
        else:
            log.warning("job.suspected", engine_deaths=claim.engine_deaths + 1)
            await self._insist(lambda: self._store.release(claim, "suspect"))

    async def _insist(self, write: Callable[[], Awaitable[bool]]) -> bool:
        """Write what took a GPU to learn, also when Redis is away for a while; a stale fence is refused."""
        async with asyncio.timeout(INSIST_S):
            while True:
                try:
                    return await write()
                except RedisError:
                    log.warning("store.unreachable", chore="write")
                    await asyncio.sleep(0.5)

    def _stop(self, running: Running, by: Literal["client", "lease", "engine"]) -> None:
        if running.stopped_by or running.settling:
            return
        running.stopped_by = by
        if by == "client" and running.stage is Stage.GENERATING:
            # What was generated so far is worth keeping: the engine hands it out when it is asked to stop.
            self._chore(self._keeper.engine.abort(running.request_id))
            asyncio.get_running_loop().call_later(ABORT_S, self._cancel_if_running, running)
        else:
            running.task.cancel()

    def _cancel_if_running(self, running: Running) -> None:
        if not running.settling and self._running.get(running.claim.job_id) is running:
            running.task.cancel()

    async def drain(self) -> None:
        """Take no more jobs; wait for those in flight, then hand back what the grace time did not finish."""
        self.phase = Phase.DRAINING
        self.ready.set()  # doorbells that wait for an engine return
        if self._running:
            self._idle.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), self._settings.drain_s)
        left = list(self._running.values())
        for running in left:
            if not running.settling:
                running.task.cancel()
        if left:
            await asyncio.wait({running.task for running in left}, timeout=LEAVE_S)
        with suppress(RedisError):
            await self._roster.retire(self.name)

    # --- chores ---

    async def _keep_engine(self) -> None:
        while True:
            reason = await self._keeper.wait_for_death()
            self._suspend()
            in_engine = [running for running in self._running.values() if running.stage is Stage.GENERATING]
            for running in in_engine:
                self._stop(running, "engine")
            await asyncio.gather(*(running.task for running in in_engine), return_exceptions=True)
            await self._keeper.restart(reason)
            self._resume()

    async def _repeat(self, chore: Callable[[], Coroutine[Any, Any, None]], *, every_s: float) -> None:
        while True:
            try:
                await chore()
            except (RedisError, OSError):
                log.warning("store.unreachable", chore=chore.__name__)
            await asyncio.sleep(every_s)

    def _chore(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # a lost doorbell is rung by rescue

    async def _announce(self) -> None:
        health = await self._keeper.health()
        facts = {
            "name": self.name,
            "phase": self.phase,
            "gpus": self._gpus,
            "engine": self._keeper.engine.info.model_dump(),
            "jobs_in_flight": len(self._running),
            "engine_running": health.running,
            "engine_waiting": health.waiting,
            "engine_running_peak": health.running_peak,
            "engine_restarts": self._keeper.restarts,
        }
        await self._roster.announce(self.name, facts, ttl_s=max(5.0, self._settings.lease_s))

    async def _beat(self) -> None:
        held = [running for running in self._running.values() if not running.settling]
        if not held:
            return
        answers = await self._store.beat([(r.claim, r.stage) for r in held], lease_s=self._settings.lease_s)
        for running, answer in zip(held, answers, strict=True):
            if answer == "cancel":
                self._stop(running, "client")
            elif answer == "lost":
                self._stop(running, "lease")

    async def _hear_cancels(self) -> None:
        async for job_id in self._store.cancels():
            if running := self._running.get(job_id):
                self._stop(running, "client")

    async def _rescue(self) -> None:
        if not self._takes_jobs():
            return
        # The second half is kept for these: a worker with a backlog is always full, and they have waited longer than others.
        dead, room = self._lifeline.dead(), max(0, 2 * self._settings.in_flight - len(self._running))
        for priority in Priority:
            known = dead if priority is Priority.INTERACTIVE else ()  # told once: their jobs of every class are looked at
            found = await self._store.rescue(self._settings, priority, dead=known, room=room)
            # Here and now rather than by a doorbell, which would lie behind those of the backlog, and can be lost once more.
            for n, job_id in enumerate(found):
                self._chore(self.run(job_id) if n < room else self._doorbell.ring_job(job_id, priority))
            room = max(0, room - len(found))
        self._lifeline.bury(dead)

    async def _purge(self) -> None:
        most = self._settings.limit_images + self._settings.limit_videos
        while gone := await self._store.purge():
            names = (inline_name(job_id, n) for job_id in gone for n in range(most))
            await self._blobs.delete(*names)

    async def _sweep(self) -> None:
        await self._blobs.sweep(older_than_s=self._settings.upload_ttl_s)
