"""The job records in Redis: the truth about every job. All moves are Lua scripts, so each happens once or not at all.

Keys, behind one prefix: ``job:<id>`` the record (hash) · ``q:<class>:<model>:<owner>`` queued ids → created ·
``ready:<class>:<model>`` owners who have queued jobs and may run more → virtual time · ``owner:<owner>`` (hash:
``max_queued``, ``max_running``, ``weight`` of its key, ``queued``, ``running``, ``vt:<class>:<model>`` its time where it is
in no ``ready``, ``endpoints``, ``feed_until_ms``) · ``totals`` (hash: ``queued``, ended ones by status, ``minute``,
``ended`` and ``ended_before`` of that minute and the one before, ``turn:<model>``, ``vt:<class>:<model>``) · ``deadlines``
id → when it must have begun · ``delayed`` id → when it may start · ``workers`` worker → end of its lease, which is that of
all its jobs · ``held:<worker>`` id → fence and owner (hash) · ``orders:<worker>`` ids to cancel · ``asked:<worker>`` what
its last call got · ``hungry:<model>`` workers whose last call came back short → when ·
``bell:<model>`` the text of a doorbell · ``jobs:<owner>`` id → created · ``retained`` id and owner → end of retention ·
``gone:<day>`` bits of purged ids · ``promised:<owner>`` lines of batches whose jobs are to come · ``idem:<owner>:<key>`` ·
``clock`` (hash: ``beat_ms``, when a worker last wrote, and ``seen_ms``, the latest time seen, by which a clock set back is
noticed) · channels ``finals`` and ``cancels``. Scores are ms by Redis's clock.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import structlog
from redis.exceptions import BusyLoadingError, ResponseError

from shared.errors import (
    Gone,
    KeyReused,
    NotFound,
    QueueFull,
    RateLimited,
    RecordUnreadable,
    SightlineError,
    StartDeadline,
    StoreUnsafe,
    WorkerLost,
)
from shared.jobs import Job, JobRequest, JobStatus, Output, Priority, Stage, estimated_tokens
from shared.settings import Settings
from shared.store.batches import Lease, LeaseLost
from shared.store.connection import FINALS, NotReplicated, Records
from shared.store.deliveries import target_of
from shared.store.notifier import Waiter, hear
from shared.store.safety import CONFIG_NAMES, PROBE, redis_problems

log = structlog.get_logger()

IDEMPOTENCY_TTL_S = 24 * 3600
#: Records that one purge looks at, so that the script never blocks Redis for long.
PURGE_LIMIT = 200
#: Jobs of dead workers that one script gives back, or late ones that it ends: that takes longer than a look.
RESCUE_LIMIT = 50


@dataclass(frozen=True)
class Claim:
    """The right to run a job, until its worker's lease ends; every write must show ``worker`` and ``fence``."""

    job_id: str
    worker: str
    fence: int
    attempt: int
    request: JobRequest
    run_timeout_s: int
    queued_ms: int
    engine_deaths: int  #: engines that died with this job in flight; such a suspect runs alone
    priority: Priority = Priority.DEFAULT
    created_at: float = 0.0


@dataclass(frozen=True)
class Asked:
    """What a worker got that asked for jobs."""

    claims: list[Claim]
    has_more: bool  #: there is more to look at than one call may


@dataclass(frozen=True)
class Beat:
    """What a worker hears of its jobs."""

    cancelled: list[str]  #: their clients want them ended
    lost: list[Claim]  #: they are another's by now, or ended
    unknown: dict[str, int]  #: jobs and fences that it holds and does not know of, since a reply never came


def _error_json(error: SightlineError) -> str:
    return json.dumps(error.as_error(), ensure_ascii=False)


class JobStore(Records):
    """Reads and moves job records.

    The fields of a record, by who writes them; what is not there yet has no field:

    ==================  ===============================================================================================
    submit              ``owner``, ``class``, ``model``, ``request`` (JSON, see :class:`JobRequest`), ``metadata`` (JSON),
                        ``created_ms``, ``start_deadline_s``, ``run_timeout_s``, ``result_ttl_s``, ``status`` (queued),
                        ``attempt`` and ``fence`` (0), ``cost`` (tokens, estimated); of a job with a webhook
                        ``webhook_url``, ``_target``, ``_payload`` and ``_events``; of one of OpenAI's responses
                        ``response`` (JSON)
    claim               ``status``, ``stage``, ``worker``, ``started_ms``, ``attempt``, ``fence``
    stage               ``stage``
    release, rescue     ``status``, ``attempt``, ``fence``, ``released`` (who handed it back, with which fence),
                        ``engine_deaths``
    cancel              ``cancel``: the error (JSON) with which a running job is to end
    any end             ``status``, ``finished_ms``, ``output`` and ``error`` (JSON)
    events              ``deliveries``: ids of those that do not follow from the job's
    all that move it    ``hist``, ``events``: see :class:`shared.store.event_log.EventLog`
    readers             ``watched``: somebody reads the text while it is generated
    ==================  ===============================================================================================
    """

    scripts = (
        *("submit", "claim", "beat", "stage", "complete", "release", "leave", "cancel", "forget"),
        *("rescue", "overdue", "purge", "gone"),
    )

    lasting = ("submit", "complete")
    _tells_config = True

    async def check_safety(self) -> None:
        """Refuse a Redis that forgets or evicts jobs.

        Raises:
            StoreUnsafe: what is wrong and how to mend it.
            RedisError: it is away, or still reading its data.
        """
        info = await self.redis.info()
        if info.get("loading"):  # it says that AOF is off while it reads it
            msg = "Redis is reading its data"
            raise BusyLoadingError(msg)
        config: object = {}
        if self._tells_config:
            try:
                config = await self.redis.config_get(*CONFIG_NAMES)
            except ResponseError:  # a managed Redis, or a user's rights, may not let it say; INFO then decides
                self._tells_config = False
        if problems := redis_problems(info, cast("dict[str, object]", config)):
            raise StoreUnsafe("; ".join(f"{problem} ({fix})" for problem, fix in problems))

    async def probe(self) -> None:
        """Ask whether a job would be taken now.

        Raises:
            RedisError: why it would not.
        """
        await self.redis.ask_lasting("EVAL", PROBE, 1, self._prefix)

    # --- the client's side ---

    async def submit(  # noqa: PLR0913  # each is a fact of its own
        self,
        request: JobRequest,
        settings: Settings,
        *,
        owner: str,
        job_id: str,
        idempotency: tuple[str, str] | None = None,
        priority: Priority = Priority.DEFAULT,
        watched: bool = False,
        response: dict[str, Any] | None = None,
        lease: Lease | None = None,
    ) -> tuple[str, float | None]:
        """Write a job's record, queue it, and ring for a worker that waits, in one step.

        Args:
            request: with its media already stored, so that the record stays small.
            settings: limits and time-outs.
            owner: whose job it is.
            job_id: its id, from :func:`new_id`.
            idempotency: the client's key and a hash of its body.
            priority: which jobs it may overtake.
            watched: somebody reads its text while it is generated, see :class:`shared.store.event_log.EventLog`.
            response: what one of OpenAI's responses says of its request; only a job made as one has it.
            lease: of the batch whose line it is; batches leave a share of both limits free.

        Returns:
            The job's id, and when it was created; None instead where it is an earlier job with the same key.

        Raises:
            QueueFull: ``max_queued`` jobs wait already.
            RateLimited: as many of this owner's jobs wait as its key may have.
            KeyReused: the key came with another body before.
            LeaseLost: the batch is another runner's by now.
            NotReplicated: the job stands, but may be lost with Redis's machine.
        """
        key, body = idempotency or ("", "")
        fields: dict[str, str | int] = {
            "class": priority,
            "model": request.model or settings.served_model_name,
            "cost": _cost(request, settings),
            "request": request.model_dump_json(exclude_defaults=True),
            "metadata": json.dumps(request.metadata, ensure_ascii=False),
            "start_deadline_s": request.start_deadline_s or settings.start_deadline_s,
            "run_timeout_s": request.run_timeout_s or settings.run_timeout_s,
            "result_ttl_s": request.result_ttl_s or settings.result_ttl_s,
        }
        if request.webhook:
            fields["webhook_url"] = request.webhook.url
            fields["webhook_target"] = target_of(owner, request.webhook.url)
            fields["webhook_payload"] = request.webhook.payload
            fields["webhook_events"] = "".join(f"{event} " for event in request.webhook.events)
        if watched:
            fields["watched"] = 1
        if response is not None:
            fields["response"] = json.dumps(response, ensure_ascii=False)
        flat = [part for pair in fields.items() for part in pair]
        batch = settings.chat_reserve if priority is Priority.BULK else 0, *(lease or ("", ""))
        facts = key, body, IDEMPOTENCY_TTL_S, *batch, *flat
        try:
            answer = await self._run("submit", job_id, owner, settings.max_queued, *facts)
        except NotReplicated as error:
            answer = error.answer
            if answer[0] in {"new", "replay"}:
                raise NotReplicated(answer, answer[1]) from error
        if answer[0] == "lost":
            raise LeaseLost
        if answer[0] == "full":
            msg = f"{answer[1]} jobs are waiting, which is as many as this service takes"
            raise QueueFull(msg, retry_after_s=_drained_after_s(answer[1], answer[2]))
        if answer[0] == "reused":
            raise KeyReused
        if answer[0] == "limited":
            msg = f"{answer[1]} jobs of this API key are waiting, which is as many as it may have"
            raise RateLimited(msg, retry_after_s=5)
        return answer[1], answer[2] / 1000 if answer[0] == "new" else None

    async def get(self, job_id: str, *, owner: str | None = None) -> Job:
        """Read one job.

        Raises:
            NotFound: no such job, or another owner's.
            Gone: it ended, and its retention is over.
            RecordUnreadable: the record is damaged, or of another version.
        """
        read = await self._owned(job_id)
        if read and owner in (None, read[0]):
            return read[1]
        if owner and not read and await self._run("gone", job_id, owner):
            raise Gone
        msg = "there is no job by that id"
        raise NotFound(msg)

    async def list_jobs(self, *, owner: str, limit: int, after: str | None = None) -> tuple[list[Job], bool]:
        """List an owner's jobs, newest first.

        Args:
            owner: whose.
            limit: most jobs to give.
            after: id of the last job of the page before.

        Returns:
            The jobs, and whether there are more.

        Raises:
            InvalidRequest: nothing tells where ``after`` stood.
        """

        async def read(job_id: str) -> Job | None:
            found = await self._owned(job_id)
            return found and found[1]

        return await self._list(f"jobs:{owner}", read, limit=limit, after=after)

    def parse(self, job_id: str, record: dict[str, str]) -> Job | None:
        """Make a job of the record that a script has read; None where there was none.

        Raises:
            RecordUnreadable: the record is damaged, or of another version.
        """
        return self._parsed(f"job:{job_id}", record, partial(_job, job_id))

    async def _owned(self, job_id: str) -> tuple[str, Job] | None:
        return await self._record(f"job:{job_id}", lambda record: (record["owner"], _job(job_id, record)))

    async def cancel(self, job_id: str, error: SightlineError) -> JobStatus | None:
        """Cancel a job: at once while queued, else by diff its worker.

        Returns:
            Its state before; None where there is no such job.
        """
        status = await self._run("cancel", job_id, _error_json(error))
        return JobStatus(status) if status else None

    async def forget(self, job_id: str, error: SightlineError) -> None:
        """End a response's retention now, and cancel its job where it has not ended; from here on it is no response."""
        await self._run("forget", job_id, _error_json(error))

    # --- the worker's side ---

    async def hang_bell(self, model: str, message: str) -> None:
        """Leave the text of a doorbell for workers of a model, so that scripts can ring; see :mod:`shared.queue`."""
        await self.redis.set(self._key(f"bell:{model}"), message)

    async def claim(  # each is a fact of its own
        self,
        worker: str,
        model: str,
        n: int,
        *,
        n_default: int,
        n_bulk: int,
        lease_s: float,
        token: str,
    ) -> Asked:
        """Start the next jobs of a model: the most urgent class first, fair between owners, the oldest of an owner first.

        Args:
            worker: who runs them.
            model: that this worker answers as; it gets no other's jobs.
            n: most jobs to start; 0 of a worker that is full and was rung, so that others are.
            n_default: most of them of the default class.
            n_bulk: most of them lines of batches.
            lease_s: how long the worker holds its jobs without a beat.
            token: names this call, for a caller who repeats it when its reply was lost.
        """
        errors = _error_json(StartDeadline()), _error_json(RecordUnreadable())
        places = n, n_default, n_bulk
        answer = await self._run("claim", worker, token, int(lease_s * 1000), model, *places, *errors)
        has_more, now_ms, aside, given = answer
        _log_aside(aside)
        claims = [claim for facts in given if (claim := await self._claimed(worker, now_ms, facts))]
        return Asked(claims, bool(has_more))

    async def _claimed(self, worker: str, now_ms: int, facts: list[Any]) -> Claim | None:
        job_id, fence, attempt, request, run_timeout_s, created_ms, deaths, priority = facts
        try:
            return Claim(
                *(job_id, worker, fence, attempt, JobRequest.model_validate_json(request), run_timeout_s),
                queued_ms=now_ms - created_ms,
                engine_deaths=deaths,
                priority=Priority(priority),
                created_at=created_ms / 1000,
            )
        except ValueError:  # no JSON, or a later version's
            _log_aside([job_id])
            error = _error_json(RecordUnreadable())
            await self._run("complete", job_id, worker, fence, JobStatus.FAILED, "error", error)
            return None

    async def beat(self, worker: str, claims: Sequence[Claim], *, lease_s: float) -> Beat:
        """Renew a worker's lease; one without jobs beats, too, since leases run only while somebody does.

        Args:
            worker: whose lease.
            claims: all that it holds, as it knows.
            lease_s: how long it lasts.
        """
        cancelled, *rest = await self._run("beat", worker, int(lease_s * 1000), len(claims))
        if not rest:
            return Beat(cancelled, [], {})
        held = {job_id: int(fact.partition(" ")[0]) for job_id, fact in zip(rest[0][::2], rest[0][1::2], strict=True)}
        lost = [claim for claim in claims if held.get(claim.job_id) != claim.fence]
        known = {claim.job_id for claim in claims}
        return Beat(cancelled, lost, {job_id: fence for job_id, fence in held.items() if job_id not in known})

    async def set_stages(self, worker: str, stages: Sequence[tuple[Claim, Stage]]) -> None:
        """Say what running jobs are doing."""
        flat = [part for claim, stage in stages for part in (claim.job_id, claim.fence, stage)]
        await self._run("stage", worker, *flat)

    async def leave(self, worker: str, model: str) -> None:
        """Take a worker off the list of those that want jobs; its lease goes, too, where it holds none."""
        await self._run("leave", worker, model)

    async def complete(self, claim: Claim, status: JobStatus, *, output: Output | None, error: SightlineError | None) -> bool:
        """End a job, and put its webhook on the due list.

        Args:
            claim: the right to do so.
            status: a final one.
            output: what was produced; of a cancelled job, what there was by then.
            error: why it failed or was cancelled.

        Returns:
            Whether this write counted; False when the claim was lost before.

        Raises:
            NotReplicated: it was written, but may be lost with Redis's machine: the job would then run again.
        """
        fields = ["output", output.model_dump_json(exclude_defaults=True)] if output else []
        fields += ["error", _error_json(error)] if error else []
        return bool(await self._run("complete", claim.job_id, claim.worker, claim.fence, status, *fields))

    async def release(self, claim: Claim, why: Literal["retry", "leave", "suspect"], *, after_s: float = 0.0) -> bool:
        """Hand a claimed job back.

        Args:
            claim: the right to do so.
            why: ``retry`` charges the attempt; ``leave`` (the worker goes) and ``suspect`` (an engine died with this job in
                it) do not.
            after_s: when it may start again.
        """
        return await self.release_held(claim.worker, claim.job_id, claim.fence, why, after_s=after_s)

    async def release_held(
        self, worker: str, job_id: str, fence: int, why: Literal["retry", "leave", "suspect"] = "leave", *, after_s: float = 0.0
    ) -> bool:
        """Hand a job back of which only the fence is known."""
        return bool(await self._run("release", job_id, worker, fence, why, int(after_s * 1000)))

    async def rescue(self, settings: Settings, *, dead: Sequence[str] = ()) -> int:
        """Return or finish what dead workers left, and let jobs start whose delay is over.

        Any worker may call this at any time: a second call finds nothing left to do. The first call after Redis was away, took
        no writes or had its clock set renews all leases instead: nobody could.

        Args:
            settings: how many attempts a job has, how long a lease is, which model the caller serves.
            dead: workers that are known to be gone; their leases end now.

        Returns:
            How many jobs it looked at.
        """
        errors = _error_json(WorkerLost()), _error_json(RecordUnreadable())
        limits = settings.max_attempts, RESCUE_LIMIT, int(settings.lease_s * 1000), settings.served_model_name
        n_looked, looked_at = 0, RESCUE_LIMIT
        while looked_at == RESCUE_LIMIT:
            looked_at, aside = await self._run("rescue", *limits, *errors, *dead)
            _log_aside(aside)
            n_looked += looked_at
        return n_looked

    async def is_my_turn(self, chore: str, every_s: float) -> bool:
        """Take the turn at a chore that one worker of the fleet does so often."""
        return bool(await self.redis.set(self._key(f"turn:{chore}"), 1, nx=True, px=max(1, int(1000 * every_s))))

    async def fail_overdue(self) -> None:
        """End the jobs that were to begin by now and have not; any part of the service may call this at any time."""
        errors = _error_json(StartDeadline()), _error_json(RecordUnreadable())
        looked_at = RESCUE_LIMIT
        while looked_at == RESCUE_LIMIT:
            looked_at, aside = await self._run("overdue", RESCUE_LIMIT, *errors)
            _log_aside(aside)

    async def purge(self) -> list[str]:
        """Clear away what is left of jobs past their retention; for a week their owners are still told that they are gone.

        Returns:
            Their ids, some at a time; whoever gets them removes their files.
        """
        gone, odd = await self._run("purge", PURGE_LIMIT)
        _log_aside(odd)
        return cast("list[str]", gone)

    async def counts(self) -> dict[str, int]:
        """Count queued and running jobs now, and jobs that ended since the store began."""
        finals = [status for status in JobStatus if status.is_final]
        totals = self.redis.ask("HMGET", self._key("totals"), "queued", *finals)
        (queued, *ended), workers = await asyncio.gather(totals, self.redis.ask("ZRANGE", self._key("workers"), 0, -1))
        held = await asyncio.gather(*(self.redis.ask("HLEN", self._key(f"held:{worker}")) for worker in workers))
        counts = {"queued": max(0, int(queued or 0)), "running": sum(held)}
        return counts | {status.value: int(n or 0) for status, n in zip(finals, ended, strict=True)}

    def end_of(self, job_id: str) -> Waiter:
        """Wait for the end of a job while a block runs, see :class:`shared.store.notifier.News`."""
        return self.redis.notifier.about(FINALS, job_id, ("HGET", self._key(f"job:{job_id}"), "status"))

    async def cancels(self) -> AsyncGenerator[str]:
        """Hear of running jobs that are to be cancelled. Messages can be missed: the record is what counts."""
        async with aclosing(hear(self.redis, self._key("cancels"))) as messages:
            async for _, job_id in messages:
                if job_id is not None:
                    yield job_id


def _cost(request: JobRequest, settings: Settings) -> int:
    video_px = settings.max_frames * settings.frame_min_pixels // 2  # two frames make one, and many are shown as small ones
    return estimated_tokens(request, image_px=settings.max_pixels, video_px=video_px)


def _drained_after_s(queued: int, ended: int) -> int:
    """Estimate when a full queue has some room again, from what ended in the last one to two minutes."""
    per_s = ended / 90
    return min(600, max(1, math.ceil(0.05 * queued / per_s))) if per_s else 60


def _log_aside(ids: Sequence[str]) -> None:
    """Write down whose records were damaged: they have ended, or left the indexes."""
    for ident in ids:
        log.error("record.set_aside", record=ident)


def _job(job_id: str, record: dict[str, str]) -> Job:
    def at(name: str) -> float | None:
        return int(record[name]) / 1000 if name in record else None

    return Job(
        id=job_id,
        status=JobStatus(record["status"]),
        model=record.get("model"),
        stage=Stage(record["stage"]) if record.get("stage") else None,
        attempt=int(record["attempt"]),
        created_at=int(record["created_ms"]) / 1000,
        started_at=at("started_ms"),
        finished_at=at("finished_ms"),
        output=Output.model_validate_json(record["output"]) if "output" in record else None,
        error=json.loads(record["error"]) if "error" in record else None,
        metadata=json.loads(record["metadata"]),
        response=json.loads(record["response"]) if "response" in record else None,
    )
