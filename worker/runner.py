"""Sees jobs to their ends: many at a time on one engine, each claimed, under a lease that its worker renews."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from typing import Literal

import structlog

from shared.aio import Background
from shared.blobs import Blobs
from shared.errors import (
    CancelledByClient,
    EngineFailed,
    MediaUnseen,
    RunTimeout,
    SightlineError,
    StorageUnavailable,
)
from shared.jobs import JobStatus, Output, Priority, Stage
from shared.settings import Settings
from shared.store.claims import Claim
from shared.store.connection import Client
from shared.store.event_log import EventLog
from shared.store.jobs import JobStore
from worker.admission import Admission
from worker.attempt import attempt_of
from worker.boxes import boxes_in
from worker.claiming import Asking, Places
from worker.endings import Endings
from worker.engines.base import EngineDead
from worker.engines.sizes import vision_tokens
from worker.media.fetch import waiting_for_hosts
from worker.media.loader import MediaLoader
from worker.media_report import media_of, warnings_of
from worker.phase import Readiness
from worker.running_job import Death, Running, urgency
from worker.stages import Stages
from worker.supervisor import EngineSupervisor
from worker.text_stream import TextStreams

log = structlog.get_logger()

#: An abort is answered within a step of the engine; a request that was still being rendered is cancelled after this.
ABORT_S = 1.0
#: Jobs that were in an engine when it died are stopped within this; they make groups then, all at once.
STOP_S = 0.2
#: From so many jobs on that wait for others' hosts, a worker takes only chats.
MOST_FETCHING = 512
#: What a worker that leaves gives its last writes.
LEAVE_S = 5.0


class Runner:
    """Owns the jobs in flight, and what stands between them and the engine."""

    media_loader: MediaLoader  #: made when the engine's limits are known, before the first job

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
        self._death: Death | None = None  # the last one
        self._bulk_slots = asyncio.Semaphore(settings.bulk_slots)
        self._idle = asyncio.Event()
        self.store = JobStore(redis)
        self.blobs = Blobs(settings.blobs_url, make=False)
        self.text_streams = TextStreams(EventLog(redis))
        self.in_flight: dict[str, Running] = {}
        self.background = Background()
        self.asking = Asking(settings, self.store, name, places=self.places, start=self.start, on_hunger=on_hunger)
        self.stages = Stages(self.store, name, self.in_flight)
        self._endings = Endings(settings, self.store, self.blobs, self.in_flight, self.asking.free)

    async def ask(self) -> None:
        """Ask for jobs while places are free, until cancelled."""
        waiting_for_hosts.listeners.add(self.asking.free)
        try:
            await self.asking.run()
        finally:
            waiting_for_hosts.listeners.discard(self.asking.free)

    def places(self) -> Places:
        """Tell how many more jobs may be in flight; what waits for others' hosts, or to be written, needs no slot."""
        if not self._readiness.takes_jobs:
            return Places(0, 0, 0)
        settings, in_flight = self._settings, [running for running in self.in_flight.values() if running.needs_place]
        if any(running.claim.engine_deaths and not running.settling for running in in_flight):
            return Places(0, 0, 0)  # suspects run with nobody beside them
        most = settings.in_flight - len(in_flight) + waiting_for_hosts.n
        if waiting_for_hosts.n >= MOST_FETCHING:
            return Places(most, 0, 0)
        n_bulk = sum(running.claim.priority is Priority.BULK for running in in_flight)
        is_empty = all(running.settling for running in in_flight)
        suspects = most if is_empty else 0
        return Places(most, most, settings.bulk_in_flight - n_bulk, suspects, self._supervisor.has_served)

    def start(self, claim: Claim) -> None:
        """Begin a job; it is in flight from now on."""
        if stale := self.in_flight.get(claim.job_id):  # rescued while this worker was held up, and now back here
            self.stop(stale, "lease")
        running = Running(claim)
        self.in_flight[claim.job_id] = running
        running.task = self.background.add(self._run_one(running))

    async def _run_one(self, running: Running) -> None:
        claim, running.has_begun = running.claim, True
        try:
            with (
                structlog.contextvars.bound_contextvars(job_id=claim.job_id, attempt=claim.attempt),
                attempt_of(claim, self._settings.served_model_name) as running.attempt,
            ):
                if running.stopped_by:
                    await self._settle_stopped(running)
                elif self._readiness.takes_jobs:
                    await self._run_claimed(running)
                else:  # SIGTERM, or the engine's death, came while the claim was under way
                    await self._endings.hand_back(running)
        finally:
            if self.in_flight.get(claim.job_id) is running:
                del self.in_flight[claim.job_id]
            if not self.in_flight:
                self._idle.set()
            self.asking.free()

    async def _run_claimed(self, running: Running) -> None:
        claim = running.claim
        try:
            outcome: Output | SightlineError = await self._produce(running)
        except asyncio.CancelledError:
            await asyncio.shield(self._settle_stopped(running))
            return
        except EngineDead:
            await self._endings.settle_dead(running, self.engine_died(running))
            return
        except StorageUnavailable:
            await self._endings.wait_for_storage(running)
            return
        except SightlineError as error:
            outcome = error
        except Exception:  # the seam: whatever a library throws ends one job, not the worker
            log.exception("job.crashed")
            outcome = EngineFailed()
        if isinstance(outcome, Output):
            if outcome.finish_reason == "cancelled":
                await self._endings.end(running, JobStatus.CANCELLED, output=outcome, error=CancelledByClient())
            else:
                await self._endings.end(running, JobStatus.SUCCEEDED, output=outcome)
        elif outcome.retryable and claim.attempt < self._settings.max_attempts:
            await self._endings.retry(running, outcome.code)
        else:
            await self._endings.end(running, JobStatus.FAILED, error=outcome)

    async def _produce(self, running: Running) -> Output:
        claim, began = running.claim, time.monotonic()
        running.timings_ms["queue"] = claim.queued_ms

        try:
            rank = urgency(claim)
            load = self.media_loader.load(
                claim.request.messages,
                on_stage=partial(self.stages.enter, running),
                timings_ms=running.timings_ms,
                urgency=rank,
                priority=claim.priority,
            )
            async with asyncio.timeout(claim.run_timeout_s), load as conversation:
                limits = self._supervisor.engine.limits
                tokens, media = vision_tokens(conversation, limits), media_of(conversation, limits)
                warnings = warnings_of(conversation)
                running.attempt.enter("wait")
                async with (
                    self._bulk_slots if claim.priority is Priority.BULK else nullcontext(),
                    self._admission.inside(tokens, rank),
                ):
                    self.stages.enter(running, Stage.GENERATING)
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
                    self._supervisor.has_served = True
        except TimeoutError as error:
            msg = f"the job ran longer than its {claim.run_timeout_s} s"
            raise RunTimeout(msg) from error
        output = generation.output
        running.attempt.generated(output, sampling)
        if media and not output.usage.vision_tokens:
            raise MediaUnseen
        timings = running.timings_ms | output.timings_ms | {"total": round((time.monotonic() - began) * 1000)}
        boxes = boxes_in(output.text, media, limits.measure)
        return output.model_copy(update={"timings_ms": timings, "media": media, "warnings": warnings, "boxes": boxes})

    async def _settle_stopped(self, running: Running) -> None:
        if running.stopped_by == "lease":
            running.attempt.lost()
            log.warning("job.lost")
        elif running.stopped_by == "client":
            await self._endings.end(running, JobStatus.CANCELLED, error=CancelledByClient())
        elif running.stopped_by == "engine" and self._death:
            await self._endings.settle_dead(running, self._death)
        else:  # the worker is leaving
            await self._endings.hand_back(running)

    def stop(self, running: Running, by: Literal["client", "lease", "engine"]) -> None:
        """Stop a job in flight; its end, or its return to the queue, is written by its own task."""
        if running.stopped_by or running.settling:
            return
        running.stopped_by = by
        if not running.has_begun:
            return  # it sees that when it does
        if by == "client" and running.stage is Stage.GENERATING:
            # What was generated so far is worth keeping: the engine hands it out when it is asked to stop.
            self.background.add(self._supervisor.engine.abort(running.request_id))
            asyncio.get_running_loop().call_later(ABORT_S, self._cancel_if_running, running)
        else:
            running.task.cancel()

    def _cancel_if_running(self, running: Running) -> None:
        if not running.settling and self.in_flight.get(running.claim.job_id) is running:
            running.task.cancel()

    def engine_died(self, seen_by: Running | None = None) -> Death:
        """Stop all that is in flight: what was in the engine is under suspicion, and others may start elsewhere meanwhile.

        Args:
            seen_by: the job that met the dead engine, and settles itself.
        """
        if self._death and self._death.engine is self._supervisor.engine:
            return self._death
        self._readiness.suspend()
        jobs = list(self.in_flight.values())
        in_engine = [job for job in jobs if job.stage is Stage.GENERATING and not job.settling]
        self._death = Death(self._supervisor.engine, self._supervisor.has_served, in_engine)
        asyncio.get_running_loop().call_later(STOP_S, self._death.are_stopped.set)
        for running in jobs:
            if running is not seen_by:
                self.stop(running, "engine")
        return self._death

    async def leave(self) -> None:
        """Wait for the jobs in flight, then hand back what the grace time did not finish."""
        await self.asking.stop(LEAVE_S)
        if self.in_flight:
            self._idle.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), self._settings.drain_s)
        left = list(self.in_flight.values())
        for running in left:
            if running.has_begun and not running.settling:
                running.task.cancel()
        if left:
            await asyncio.wait({running.task for running in left}, timeout=LEAVE_S)
