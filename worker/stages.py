"""What running jobs are doing, as their clients read it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from redis.exceptions import RedisError

from shared.jobs import Stage
from shared.store.claims import Claims
from worker.attempt import STEPS
from worker.running_job import Running

#: Stages are gathered for so long: a human sees no difference, and Redis gets one call for all jobs.
GATHER_STAGES_S = 0.1


class Stages:
    """Writes the stages of the jobs in flight, those of a moment in one call."""

    def __init__(self, claims: Claims, worker: str, in_flight: Mapping[str, Running]) -> None:
        """Use an open store.

        Args:
            claims: where they are written.
            worker: that runs the jobs.
            in_flight: those it runs, by id.
        """
        self._claims, self._worker, self._in_flight = claims, worker, in_flight
        self._unwritten = set[str]()  #: ids of jobs whose stage has changed
        self._changed = asyncio.Event()

    def enter(self, running: Running, stage: Stage) -> None:
        """Note that a job has come to a stage."""
        running.stage = stage
        running.attempt.enter(STEPS[stage])
        self._unwritten.add(running.claim.job_id)
        self._changed.set()

    async def write(self) -> None:
        """Write them again and again until cancelled.

        Raises:
            RedisError: Redis is away; the next call writes what is left.
        """
        while True:
            await self._changed.wait()
            await asyncio.sleep(GATHER_STAGES_S)
            self._changed.clear()
            ids, self._unwritten = self._unwritten, set()
            jobs = [running for job_id in ids if (running := self._in_flight.get(job_id)) and not running.settling]
            try:
                await self._claims.set_stages(self._worker, [(running.claim, running.stage) for running in jobs])
            except RedisError:
                self._unwritten |= ids
                self._changed.set()
                raise
