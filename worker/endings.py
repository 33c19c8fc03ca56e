"""How a job leaves its worker: with its end written, or back in the queue."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sized

import structlog
from redis.exceptions import RedisError

from shared.aio import next_moment
from shared.blobs import Blobs
from shared.errors import EngineFailed, PoisonInput, SightlineError, StartDeadline, StorageUnavailable
from shared.jobs import JobStatus, Output, Priority, Stage
from shared.messages import media_parts, references_of
from shared.settings import Settings
from shared.store.claims import Claim, Claims
from shared.store.connection import NotReplicated
from shared.store.trouble_log import log_trouble
from worker.job_metrics import STAGE_SECONDS
from worker.media.loader import blob_name
from worker.running_job import Death, Running

log = structlog.get_logger()

#: While more than so many jobs are in flight, ends are written together, so often. At 95 jobs a second Redis spends 300 us of
#: CPU on each behind its submit; with every 0.05 s 380, with each end at once 560. Chats do not wait.
FEW, TOGETHER_S = 8, 0.1
#: Between two tries to write to a Redis that is away.
RETRY_S = 0.5
#: A job whose files are out of reach starts again after so long; apart, so that a store that is back is not hit by all at once.
STORAGE_PAUSE_S = (2.0, 10.0)


async def wait_for_others(running: Running, n_in_flight: int, free: Callable[[], None]) -> None:
    """Let an end wait for those that it is written with, where many jobs are in flight; the job needs no place meanwhile."""
    if n_in_flight <= FEW or running.claim.priority is Priority.INTERACTIVE:
        return
    running.needs_place = False
    free()
    try:
        await next_moment(TOGETHER_S)
    finally:
        running.needs_place = True


class Endings:
    """Writes what became of a job."""

    def __init__(self, settings: Settings, claims: Claims, blobs: Blobs, in_flight: Sized, free: Callable[[], None]) -> None:
        """Use an open store.

        Args:
            settings: how long a job may wait, and how long a write is repeated.
            claims: where ends are written.
            blobs: where the files of jobs are.
            in_flight: the jobs of this worker.
            free: hears that a job needs its place no longer: it has left the engine, and waits for others to be written with.
        """
        self._settings, self._claims, self._blobs, self._in_flight = settings, claims, blobs, in_flight
        self._free = free

    async def end(
        self, running: Running, status: JobStatus, *, output: Output | None = None, error: SightlineError | None = None
    ) -> None:
        """Write the end of a job, and remove the files that nobody needs any more."""
        claim, running.settling = running.claim, True
        code = error.code if error and status is JobStatus.FAILED else ""
        await wait_for_others(running, len(self._in_flight), self._free)
        try:
            written = await self._insist(claim, lambda: self._claims.complete(claim, status, output=output, error=error))
        except NotReplicated:  # it may run again, and needs its files then; they go with its retention
            running.attempt.over(status, code)
            log.warning("job.ended", status=status, code=error and error.code, replicated=False)
            return
        if written:
            running.attempt.over(status, code)
        else:
            running.attempt.lost()
        facts = {"tokens": output.usage.output_tokens, **output.timings_ms} if output else {}
        for stage, ms in output.timings_ms.items() if output and written else ():
            STAGE_SECONDS.labels(stage).observe(ms / 1000)
        log.info("job.ended" if written else "job.lost", status=status, code=error and error.code, **facts)
        if not written or status is JobStatus.FAILED:  # a retry needs them; they go with the job's retention
            return
        references = [reference for part in media_parts(claim.request.messages) for reference in references_of(part)]
        # Where the storage is away, they go with the job's retention.
        await self._blobs.discard(*(blob_name(reference) for reference in references if reference.startswith("blob:")))

    async def wait_for_storage(self, running: Running) -> None:
        """Hand a job back whose files are out of reach: no attempt is charged, and it starts again while it may wait."""
        claim, running.settling = running.claim, True
        may_wait_s = claim.request.start_deadline_s or self._settings.start_deadline_s
        if claim.queued_ms > 1000 * may_wait_s:
            msg = f"the storage of this job's files could not be reached within its start_deadline_s of {may_wait_s} s"
            await self.end(running, JobStatus.FAILED, error=StartDeadline(msg))
            return
        after_s = random.uniform(*STORAGE_PAUSE_S)  # noqa: S311  # no secret
        running.attempt.over("handed_back", StorageUnavailable.code)
        log.warning("job.handed_back", why="storage", again_in_s=round(after_s))
        await self._insist(claim, lambda: self._claims.release(claim, "leave", after_s=after_s))

    async def retry(self, running: Running, code: str) -> None:
        """Hand a job back that failed for a passing reason; the attempt is charged."""
        claim = running.claim
        running.attempt.over("retried", code)
        log.info("job.retried", code=code)
        await self._insist(claim, lambda: self._claims.release(claim, "retry", after_s=2.0**claim.attempt))

    async def hand_back(self, running: Running) -> None:
        """Return a job to the queue: the worker leaves."""
        running.settling = True
        running.attempt.over("handed_back")
        await self._claims.release(running.claim, "leave")

    async def settle_dead(self, running: Running, death: Death) -> None:
        """Settle a job whose engine died: those in the engine are suspects, and only one that was alone can be the culprit."""
        claim, running.settling = running.claim, True
        if running.stage is not Stage.GENERATING:
            running.attempt.over("handed_back", EngineFailed.code)
            await self._insist(claim, lambda: self._claims.release(claim, "leave"))
        elif death.is_proof_against(claim):
            await self.end(running, JobStatus.FAILED, error=PoisonInput())
        else:
            running.attempt.over("suspected", EngineFailed.code)
            log.warning("job.suspected", in_engine=len(death.in_engine), had_served=death.has_served)
            await death.are_stopped.wait()
            await self._insist(claim, lambda: self._claims.suspect(claim, len(death.in_engine)))

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
                await self._claims.release(claim, "leave")
            except RedisError:
                await asyncio.sleep(RETRY_S)
            else:
                return False
