"""What any part may do for all jobs, at any time: take back what dead workers held, end what came too late, clear away."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import structlog

from shared.errors import RecordUnreadable, SightlineError, StartDeadline, WorkerLost
from shared.settings import Settings
from shared.store.records import Records

log = structlog.get_logger()

#: Records that one purge looks at, so that the script never blocks Redis for long.
PURGE_LIMIT = 200
#: Jobs that one script call rescues, or fails as overdue: fewer, since each takes longer than reading a record.
RESCUE_LIMIT = 50
#: A turn at a chore lasts for this share of the time until its owner asks for the next one, which so counts again.
TURN = 0.9


def error_json(error: SightlineError) -> str:
    """Write an error as the record of a job has it."""
    return json.dumps(error.as_error(), ensure_ascii=False)


@dataclass(frozen=True)
class LostAttempt:
    """An attempt that ended with its worker, of a job that is traced."""

    job_id: str
    worker: str
    fence: int
    attempt: int
    priority: str
    model: str
    traceparent: str
    began_ms: int
    stage: str  #: what it did when it was last heard of, empty before the first


class Upkeep(Records):
    """Keeps the records in order; a second call finds nothing left to do."""

    async def rescue(
        self, settings: Settings, *, dead: Sequence[str] = (), on_lost: Callable[[LostAttempt], None] = lambda _: None
    ) -> int:
        """Return or finish what dead workers left, and let jobs start whose delay is over.

        Any worker may call this at any time: a second call finds nothing left to do. The first call after Redis was away, took
        no writes or had its clock set renews all leases instead: no worker could renew its own.

        Args:
            settings: how many attempts a job has, how long a lease is, which model the caller serves.
            dead: workers that are known to be gone; their leases end now.
            on_lost: hears of the attempts that ended so, as far as their jobs are traced.

        Returns:
            How many jobs it looked at.
        """
        errors = error_json(WorkerLost()), error_json(RecordUnreadable())
        limits = settings.max_attempts, RESCUE_LIMIT, int(settings.lease_s * 1000), settings.served_model_name
        n_looked, looked_at = 0, RESCUE_LIMIT
        while looked_at == RESCUE_LIMIT:
            looked_at, aside, lost = await self._run("rescue", *limits, *errors, *dead)
            log_aside(aside)
            for facts in lost:
                on_lost(LostAttempt(*facts))
            n_looked += looked_at
        return n_looked

    async def is_my_turn(self, chore: str, every_s: float) -> bool:
        """Take the turn at a chore that one worker of the fleet does so often, and that each of them asks for as often."""
        turn_ms = max(1, int(1000 * TURN * every_s))
        return bool(await self.redis.set(self._key(f"turn:{chore}"), 1, nx=True, px=turn_ms))

    async def fail_overdue(self) -> None:
        """End the jobs that were to begin by now and have not; any part of the service may call this at any time."""
        errors = error_json(StartDeadline()), error_json(RecordUnreadable())
        looked_at = RESCUE_LIMIT
        while looked_at == RESCUE_LIMIT:
            looked_at, aside = await self._run("fail_overdue", RESCUE_LIMIT, *errors)
            log_aside(aside)

    async def purge_expired_jobs(self) -> list[str]:
        """Take jobs past their retention out of all lists; for a week their owners still hear that they are gone.

        Redis deletes the records by itself: ``retain`` in ``scripts/lib/jobs.lua`` gives each one its time to live.

        Returns:
            Their ids, some at a time; whoever gets them removes their files.
        """
        gone, odd = await self._run("purge_expired_jobs", PURGE_LIMIT)
        log_aside(odd)
        return cast("list[str]", gone)


def log_aside(ids: Sequence[str]) -> None:
    """Write down whose records were damaged: they have ended, or left the indexes."""
    for ident in ids:
        log.error("record.set_aside", record=ident)
