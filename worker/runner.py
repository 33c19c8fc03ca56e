"""Sees jobs to their ends: many at a time on one engine, each claimed, under a lease that its worker renews."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Literal

import structlog
from aiorwlock import RWLock
from redis.exceptions import RedisError

from shared.aio import Background
from shared.blobs import Blobs
from shared.errors import (
    CancelledByClient,
    EngineFailed,
    MediaUnseen,
    PoisonInput,
    RunTimeout,
    SightlineError,
    StartDeadline,
    StorageUnavailable,
)
from shared.jobs import JobStatus, Output, Priority, Stage
from shared.messages import media_parts, references_of
from shared.settings import Settings
from shared.store.claims import Claim
from shared.store.connection import Client, NotReplicated
from shared.store.event_log import EventLog
from shared.store.jobs import JobStore
from shared.store.log import log_trouble
from worker.admission import Admission, vision_tokens
from worker.asking import Asking, Places
from worker.boxes import boxes_in
from worker.engines.base import EngineDead
from worker.media.fetch import waiting_for_hosts
from worker.media.gate import MediaGate, blob_name
from worker.phase import Phase, Readiness
from worker.sight import media_of, warnings_of
from worker.supervisor import EngineSupervisor
from worker.text_stream import TextStreams

log = structlog.get_logger()

#: Between two tries to write to a Redis that is away.
RETRY_S = 0.5
#: An abort is answered within a step of the engine; a request that was still being rendered is cancelled after this.
ABORT_S = 1.0
#: Stages are gathered for so long: a human sees no difference, and Redis gets one call for all jobs.
GATHER_STAGES_S = 0.1
#: From so many jobs on that wait for others' hosts, a worker takes only chats.
MOST_FETCHING = 512
#: What a worker that leaves gives its last writes.
LEAVE_S = 5.0
#: A job in whose company an engine died, and then died again with it alone, gets one more try alone.
MAX_ENGINE_DEATHS = 3
#: A job whose files are out of reach starts again after so long; apart, so that a store that is back is not hit by all at once.
STORAGE_PAUSE_S = (2.0, 10.0)
#: A job goes behind newer ones of a more urgent class for this long, so that none starves in the engine.
GRACE_S = {Priority.INTERACTIVE: 0, Priority.DEFAULT: 10, Priority.BULK: 60}


def urgency(claim: Claim) -> int:
    """Rank a job among those that wait for decoders or the engine, smaller first: by age, with a handicap for its class."""
    return int((claim.created_at + GRACE_S[claim.priority]) * 1000)


@dataclass
class Running:
    """A claimed job in flight."""

    claim: Claim
    task: asyncio.Task[None] = field(init=False)
    stage: Stage = Stage.FETCHING
    timings_ms: dict[str, int] = field(default_factory=dict)
    #: Who stops it before its end: its client, its lease that went to another worker, or the engine's death.
    stopped_by: Literal["client", "lease", "engine"] | None = None
    settling: bool = False  #: its end is being written; from here on nothing may stop it

    @property
    def request_id(self) -> str:
        """The engine's name for this attempt."""
        return f"{self.claim.job_id}-{self.claim.fence}"


class Runner:
    """Owns the jobs in flight, and what stands between them and the engine."""

    gate: MediaGate  #: made when the engine's limits are known, before the first job

    def __init__(
        self,
        settings: Settings,
        name: str,
        supervisor: EngineSupervisor,
        readiness: Readiness,
        redis: Client,
        on_hunger: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """Wire the parts together.

        Args:
            settings: time-outs, limits.
            name: of this worker, which claims.
            supervisor: has the engine.
            readiness: whether jobs are taken.
            redis: where records are.
            on_hunger: hears whether doorbells are for this worker.
        """
        self._settings, self._name, self._supervisor, self._readiness = settings, name, supervisor, readiness
        self._admission = Admission(settings.max_num_batched_tokens)
        self._company = RWLock(fast=True)  # who was in flight when an engine died runs with nobody beside it
        self._bulk_slots = asyncio.Semaphore(settings.bulk_slots)
        self._idle = asyncio.Event()
        self.store = JobStore(redis)
        self.blobs = Blobs(settings.blobs_url, make=False)
        self.text_streams = TextStreams(EventLog(redis))
        self.in_flight: dict[str, Running] = {}
        self.background = Background()
        self.asking = Asking(settings, self.store, name, places=self.places, start=self.start, on_hunger=on_hunger)
        self._staged = set[str]()  #: ids of jobs whose stage is news
        self._stage_news = asyncio.Event()

    async def ask(self) -> None:
        """Ask for jobs while places are free, until cancelled."""
        waiting_for_hosts.listeners.add(self.asking.free)
        try:
            await self.asking.run()
        finally:
            waiting_for_hosts.listeners.discard(self.asking.free)

    def places(self) -> Places:
        """Tell how many more jobs may be in flight; those that wait for others' hosts need no slot of the engine meanwhile."""
        if not self._readiness.takes_jobs:
            return Places(0, 0, 0)
        settings, in_flight = self._settings, self.in_flight.values()
        most = settings.in_flight - len(in_flight) + waiting_for_hosts.n
        if waiting_for_hosts.n >= MOST_FETCHING:
            return Places(most, 0, 0)
        n_bulk = sum(running.claim.priority is Priority.BULK for running in in_flight)
        return Places(most, most, settings.bulk_in_flight - n_bulk)

    def start(self, claim: Claim) -> None:
        """Begin a job; it is in flight from now on."""
        if stale := self.in_flight.get(claim.job_id):  # rescued while this worker was held up, and now back here
            self.stop(stale, "lease")
        running = Running(claim)
        self.in_flight[claim.job_id] = running
        running.task = self.background.add(self._run_one(running))

    async def _run_one(self, running: Running) -> None:
        claim = running.claim
        try:
            if not self._readiness.takes_jobs:  # SIGTERM, or the engine's death, came while the claim was under way
                await self._hand_back(running)
                return
            with structlog.contextvars.bound_contextvars(job_id=claim.job_id, attempt=claim.attempt):
                await self._run_claimed(running)
        finally:
            if self.in_flight.get(claim.job_id) is running:
                del self.in_flight[claim.job_id]
            if not self.in_flight:
                self._idle.set()
            self.asking.free()

    async def _hand_back(self, running: Running) -> None:
        running.settling = True
        await self.store.release(running.claim, "leave")

    async def _run_claimed(self, running: Running) -> None:
        claim = running.claim
        try:
            outcome: Output | SightlineError = await self._produce(running)
        except asyncio.CancelledError:
            await asyncio.shield(self._settle_stopped(running))
            return
        except EngineDead:
            self._readiness.suspend()
            await self._settle_dead(running)
            return
        except StorageUnavailable:
            await self._wait_for_storage(running)
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
            await self._insist(claim, lambda: self.store.release(claim, "retry", after_s=2.0**claim.attempt))
        else:
            await self._end(running, JobStatus.FAILED, error=outcome)

    async def _produce(self, running: Running) -> Output:
        claim, began = running.claim, time.monotonic()
        running.timings_ms["queue"] = claim.queued_ms

        def at_stage(stage: Stage) -> None:
            running.stage = stage
            self._staged.add(claim.job_id)
            self._stage_news.set()

        try:
            messages, rank = claim.request.messages, urgency(claim)
            load = self.gate.load(
                messages, on_stage=at_stage, timings_ms=running.timings_ms, urgency=rank, priority=claim.priority
            )
            async with asyncio.timeout(claim.run_timeout_s), load as conversation:
                limits = self._supervisor.engine.limits
                tokens, media = vision_tokens(conversation, limits), media_of(conversation, limits)
                warnings = warnings_of(conversation)
                async with (
                    self._bulk_slots if claim.priority is Priority.BULK else nullcontext(),
                    self._admission.inside(tokens, rank),
                    self._company.writer_lock if claim.engine_deaths else self._company.reader_lock,
                ):
                    if self._readiness.phase is Phase.LOADING:
                        raise EngineDead  # it died before this job reached it
                    at_stage(Stage.GENERATING)
                    engine, sampling = self._supervisor.engine, claim.request.sampling
                    async with self.text_streams.of(claim) as on_text:
                        generation = await engine.generate(
                            conversation,
                            sampling,
                            request_id=running.request_id,
                            urgency=rank,
                            on_text=on_text,
                            tools=claim.request.tools,
                        )
        except TimeoutError as error:
            msg = f"the job ran longer than its {claim.run_timeout_s} s"
            raise RunTimeout(msg) from error
        output = generation.output
        if media and not output.usage.vision_tokens:
            raise MediaUnseen
        timings = running.timings_ms | output.timings_ms | {"total": round((time.monotonic() - began) * 1000)}
        boxes = boxes_in(output.text, media, limits.measure)
        return output.model_copy(update={"timings_ms": timings, "media": media, "warnings": warnings, "boxes": boxes})

    async def _end(
        self, running: Running, status: JobStatus, *, output: Output | None = None, error: SightlineError | None = None
    ) -> None:
        claim, running.settling = running.claim, True
        try:
            written = await self._insist(claim, lambda: self.store.complete(claim, status, output=output, error=error))
        except NotReplicated:  # it may run again, and needs its files then; they go with its retention
            log.warning("job.ended", status=status, code=error and error.code, replicated=False)
            return
        facts = {"tokens": output.usage.output_tokens, **output.timings_ms} if output else {}
        log.info("job.ended" if written else "job.lost", status=status, code=error and error.code, **facts)
        if not written:
            return
        references = [reference for part in media_parts(claim.request.messages) for reference in references_of(part)]
        # Where the storage is away, they go with the job's retention.
        await self.blobs.discard(*(blob_name(reference) for reference in references if reference.startswith("blob:")))

    async def _wait_for_storage(self, running: Running) -> None:
        """Hand a job back whose files are out of reach: it is not at fault, and starts again for as long as it may wait."""
        claim, running.settling = running.claim, True
        may_wait_s = claim.request.start_deadline_s or self._settings.start_deadline_s
        if claim.queued_ms > 1000 * may_wait_s:
            msg = f"the storage of this job's files could not be reached within its start_deadline_s of {may_wait_s} s"
            await self._end(running, JobStatus.FAILED, error=StartDeadline(msg))
            return
        after_s = random.uniform(*STORAGE_PAUSE_S)  # noqa: S311  # no secret
        log.warning("job.handed_back", why="storage", again_in_s=round(after_s))
        await self._insist(claim, lambda: self.store.release(claim, "leave", after_s=after_s))

    async def _settle_stopped(self, running: Running) -> None:
        if running.stopped_by == "lease":
            log.warning("job.lost")
        elif running.stopped_by == "client":
            await self._end(running, JobStatus.CANCELLED, error=CancelledByClient())
        elif running.stopped_by == "engine":
            await self._settle_dead(running)
        else:  # the worker is leaving
            await self._hand_back(running)

    async def _settle_dead(self, running: Running) -> None:
        """Settle a job whose engine died: those in the engine are suspects, and only one that was alone can be the culprit."""
        claim, running.settling = running.claim, True
        if running.stage is not Stage.GENERATING:
            await self._insist(claim, lambda: self.store.release(claim, "leave"))
        elif claim.engine_deaths + 1 >= MAX_ENGINE_DEATHS:
            await self._end(running, JobStatus.FAILED, error=PoisonInput())
        else:
            log.warning("job.suspected", engine_deaths=claim.engine_deaths + 1)
            await self._insist(claim, lambda: self.store.release(claim, "suspect"))

    async def write_stages(self) -> None:
        """Write what jobs are doing, those of a moment in one call, again and again until cancelled."""
        while True:
            await self._stage_news.wait()
            await asyncio.sleep(GATHER_STAGES_S)
            self._stage_news.clear()
            told, self._staged = self._staged, set()
            jobs = [running for job_id in told if (running := self.in_flight.get(job_id)) and not running.settling]
            try:
                await self.store.set_stages(self._name, [(running.claim, running.stage) for running in jobs])
            except RedisError:
                self._staged |= told
                self._stage_news.set()
                raise

    async def _insist(self, claim: Claim, write: Callable[[], Awaitable[bool]]) -> bool:
        """Write what took a GPU to learn, also when Redis is away for a while; a stale fence is refused.

        Past ``outage_s`` it is let go: the job then runs again, and no attempt is charged for Redis's own absence.

        Returns:
            Whether it was written.

        Raises:
            NotReplicated: it was, but too few replicas have it.
        """
        until = time.monotonic() + self._settings.outage_s
        while time.monotonic() < until:
            try:
                return await write()
            except NotReplicated:
                raise
            except RedisError as error:
                log_trouble(error, chore="write")
                await asyncio.sleep(RETRY_S)
        log.error("job.let_go", held_s=self._settings.outage_s)
        while True:
            try:
                await self.store.release(claim, "leave")
            except RedisError:
                await asyncio.sleep(RETRY_S)
            else:
                return False

    def stop(self, running: Running, by: Literal["client", "lease", "engine"]) -> None:
        """Stop a job in flight; its end, or its return to the queue, is written by its own task."""
        if running.stopped_by or running.settling:
            return
        running.stopped_by = by
        if by == "client" and running.stage is Stage.GENERATING:
            # What was generated so far is worth keeping: the engine hands it out when it is asked to stop.
            self.background.add(self._supervisor.engine.abort(running.request_id))
            asyncio.get_running_loop().call_later(ABORT_S, self._cancel_if_running, running)
        else:
            running.task.cancel()

    def _cancel_if_running(self, running: Running) -> None:
        if not running.settling and self.in_flight.get(running.claim.job_id) is running:
            running.task.cancel()

    async def leave(self) -> None:
        """Wait for the jobs in flight, then hand back what the grace time did not finish."""
        await self.asking.stop(LEAVE_S)
        if self.in_flight:
            self._idle.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), self._settings.drain_s)
        left = list(self.in_flight.values())
        for running in left:
            if not running.settling:
                running.task.cancel()
        if left:
            await asyncio.wait({running.task for running in left}, timeout=LEAVE_S)
