"""The job records in Redis: the truth about every job. All moves are Lua scripts, so each happens once or not at all.

Keys, behind one prefix: ``job:<id>`` the record (hash) · ``queued`` id → when rescue rings again, of the default class, and
``queued:<class>`` of the others · ``parked:<class>:<model>`` queued ids that a worker of another model was rung for → when ·
``deadlines`` id → when it must have begun · ``running`` id → end of its lease · ``jobs:<owner>`` id → created · ``retained``
id and owner → end of retention · ``gone:<day>`` bits of purged ids · ``queued_of:<owner>``, ``running_of:<owner>`` ids, for
the limits of API keys · ``held:<owner>`` ids that wait for their turn, since as many of the key run as may · ``holding`` those
owners → when to look whether a turn was missed · ``claimed:<token>`` which job a call got in its turn ·
``idem:<owner>:<key>`` · ``count:<status>``, ``ended:<minute>`` · ``count:rings`` (doorbells beyond each job's first, which
submit leaves in kombu's list) · ``clock`` (hash: ``beat_ms``, when a worker last wrote, and ``seen_ms``, the latest time seen,
by which a clock set back is noticed) · channels ``finals`` and ``cancels``. Scores are ms by Redis's clock.
"""

from __future__ import annotations

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
from shared.jobs import Job, JobRequest, JobStatus, Output, Priority, Stage
from shared.queue import DOORBELLS_OF
from shared.settings import DEFAULT_MODEL, Settings
from shared.store.batches import Lease, LeaseLost
from shared.store.connection import FINALS, NotReplicated, Records, new_id
from shared.store.deliveries import target_of
from shared.store.notifier import Waiter, hear
from shared.store.safety import CONFIG_NAMES, PROBE, redis_problems

log = structlog.get_logger()

IDEMPOTENCY_TTL_S = 24 * 3600
#: A queued job's doorbell is rung again after this, then ever later: a lost doorbell costs seconds.
RING_AFTER_MS = 5_000
#: Records that one rescue or purge looks at, so that the script never blocks Redis for long.
RESCUE_LIMIT = 200
#: Late jobs that one script ends: that takes longer than a look.
OVERDUE_LIMIT = 50

Held = Literal["held", "cancel", "lost"]


@dataclass(frozen=True)
class Claim:
    """The right to run a job, until the lease ends; every write must show ``fence``."""

    job_id: str
    fence: int
    attempt: int
    request: JobRequest
    run_timeout_s: int
    queued_ms: int
    engine_deaths: int  #: engines that died with this job in flight; such a suspect runs alone
    priority: Priority = Priority.DEFAULT
    created_at: float = 0.0
    #: Where its API key has a limit of running jobs: whose key that is. Its end makes room for the next one.
    limited_owner: str = ""


def _error_json(error: SightlineError) -> str:
    return json.dumps(error.as_error(), ensure_ascii=False)


class JobStore(Records):
    """Reads and moves job records.

    The fields of a record, by who writes them; what is not there yet has no field:

    ==================  ===============================================================================================
    submit              ``owner``, ``class``, ``model``, ``request`` (JSON, see :class:`JobRequest`), ``metadata`` (JSON),
                        ``created_ms``, ``start_deadline_s``, ``run_timeout_s``, ``result_ttl_s``, ``status`` (queued),
                        ``attempt`` and ``fence`` (0), ``rings``; of a job with a webhook ``webhook_url``, ``_target``,
                        ``_payload`` and ``_events``; of one of OpenAI's responses ``response`` (JSON)
    claim               ``status``, ``stage``, ``worker``, ``token`` (of that call), ``started_ms``, ``attempt``, ``fence``
    beat                ``stage``
    release, rescue     ``status``, ``attempt``, ``fence``, ``released`` (the fence that it was handed back with), ``rings``,
                        ``engine_deaths``
    cancel              ``cancel``: the error (JSON) with which a running job is to end
    any end             ``status``, ``finished_ms``, ``output`` and ``error`` (JSON)
    events              ``deliveries``: ids of those that do not follow from the job's
    readers             ``watched``: somebody reads the text while it is generated; ``events``: how many were told
    ==================  ===============================================================================================
    """

    scripts = (
        *("submit", "claim", "beat", "complete", "release", "cancel", "forget"),
        *("rescue", "overdue", "turns", "purge", "gone"),
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
        doorbell: str = "",
        response: dict[str, Any] | None = None,
        lease: Lease | None = None,
    ) -> tuple[str, float | None]:
        """Write a job's record and ring for it, in one step.

        Args:
            request: with its media already stored, so that the record stays small.
            settings: limits and time-outs.
            owner: whose job it is.
            job_id: its id, from :func:`new_id`.
            idempotency: the client's key and a hash of its body.
            priority: which jobs it may overtake.
            watched: somebody reads its text while it is generated, see :class:`shared.store.event_log.EventLog`.
            doorbell: the message that tells a worker, see :class:`shared.queue.Doorbell`; without one, rescue will ring.
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
        ring = DOORBELLS_OF[priority], doorbell
        limits = settings.max_queued, RING_AFTER_MS
        batch = settings.chat_reserve if priority is Priority.BULK else 0, *(lease or ("", ""))
        try:
            facts = key, body, IDEMPOTENCY_TTL_S, *ring, *batch, *flat
            answer = await self._run("submit", job_id, owner, *limits, *facts)
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

    async def claim(
        self, job_id: str, *, worker: str, lease_s: float, model: str = DEFAULT_MODEL, token: str | None = None
    ) -> Claim | None:
        """Move a job from queued to running.

        Args:
            job_id: which. Of a key with a limit of running jobs, an older one may be given, whose turn is first.
            worker: who runs it.
            lease_s: how long the claim holds without a beat.
            model: that this worker answers as.
            token: names this call, for a caller who repeats it when its reply was lost.

        Returns:
            The claim, or None where there is nothing to claim: the doorbell was a duplicate, late or forged; the job was to
            begin earlier; as many jobs of its key run as may; or another model is asked for, whose workers' rescues find it.
        """
        claimed = await self._claim(job_id, "", "1", worker, int(lease_s * 1000), token or new_id("claim"), model=model)
        return claimed if isinstance(claimed, Claim) else None

    async def claim_turn(
        self, owner: str, *, bulk: bool, worker: str, lease_s: float, model: str = DEFAULT_MODEL, token: str | None = None
    ) -> Claim | str | None:
        """Claim the job whose turn it is among those that wait since as many of their key run as may.

        Args:
            owner: whose.
            bulk: whether a line of a batch will do.
            worker: who runs it.
            lease_s: how long the claim holds without a beat.
            model: that this worker answers as.
            token: names this call, for a caller who repeats it when its reply was lost.

        Returns:
            The claim; the id alone of a line of a batch that will not do; or None.
        """
        call = worker, int(lease_s * 1000), token or new_id("claim")
        return await self._claim("", owner, "1" if bulk else "", *call, model=model)

    async def _claim(self, *args: str | int, model: str) -> Claim | str | None:
        errors = _error_json(StartDeadline()), _error_json(RecordUnreadable())
        aside, *facts = await self._run("claim", *args, *errors, model, RING_AFTER_MS)
        _log_aside(aside)
        if len(facts) <= 1:
            return facts[0] if facts else None
        job_id, fence, attempt, request, run_timeout_s, created_ms, now_ms, deaths, priority, owner = facts
        try:
            return Claim(
                job_id,
                fence,
                attempt,
                JobRequest.model_validate_json(request),
                run_timeout_s,
                queued_ms=now_ms - created_ms,
                engine_deaths=deaths,
                priority=Priority(priority),
                created_at=created_ms / 1000,
                limited_owner=owner,
            )
        except ValueError:  # no JSON, or a later version's
            _log_aside([job_id])
            await self._run("complete", job_id, fence, JobStatus.FAILED, "error", _error_json(RecordUnreadable()))
            return None

    async def beat(self, claims: Sequence[tuple[Claim, Stage]], *, lease_s: float) -> list[Held]:
        """Renew leases and publish stages; a worker without jobs beats, too, since leases run only while somebody does.

        Returns:
            For each claim, in order: ``held``, ``cancel`` when its client wants it ended, ``lost`` when it is no longer ours.
        """
        flat = [part for claim, stage in claims for part in (claim.job_id, claim.fence, stage)]
        return cast("list[Held]", await self._run("beat", int(lease_s * 1000), *flat))

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
        return bool(await self._run("complete", claim.job_id, claim.fence, status, *fields))

    async def release(self, claim: Claim, why: Literal["retry", "leave", "suspect"], *, after_s: float = 0.0) -> bool:
        """Hand a claimed job back.

        Args:
            claim: the right to do so.
            why: ``retry`` charges the attempt; ``leave`` (the worker goes) and ``suspect`` (an engine died with this job in
                it) do not.
            after_s: when its doorbell is to ring.
        """
        return bool(await self._run("release", claim.job_id, claim.fence, why, int(after_s * 1000)))

    async def rescue(
        self, settings: Settings, priority: Priority = Priority.DEFAULT, *, dead: Sequence[str] = (), room: int = 0
    ) -> list[str]:
        """Return or finish what dead workers left, and find queued jobs that nobody was told of.

        Any worker may call this at any time: a second call finds nothing left to do. The first call after Redis was away, took
        no writes or had its clock set renews all leases instead: nobody could.

        Args:
            settings: how many attempts a job has, how long a lease is, which model the caller serves.
            priority: the class whose queued jobs are looked at; running ones of every class are.
            dead: workers that are known to be gone; their leases end now.
            room: how many jobs the caller can run itself.

        Returns:
            Ids of queued jobs of the caller's model without a doorbell: the first ``room`` are the caller's, those of the
            others should be rung.
        """
        errors = _error_json(WorkerLost()), _error_json(RecordUnreadable())
        limits = settings.max_attempts, RING_AFTER_MS, RESCUE_LIMIT
        caller = room, int(settings.lease_s * 1000), settings.served_model_name
        found, aside = await self._run("rescue", *limits, priority, DOORBELLS_OF[priority], *errors, *caller, *dead)
        _log_aside(aside)
        return cast("list[str]", found)

    async def turns(self) -> list[tuple[str, Priority]]:
        """Give jobs that waited for their turn and may start, since nobody went on with them when others of their key ended."""
        found = await self._run("turns", RING_AFTER_MS, RESCUE_LIMIT)
        classes = {priority.value: priority for priority in Priority}
        return [(job_id, classes.get(name, Priority.DEFAULT)) for job_id, name in zip(found[::2], found[1::2], strict=True)]

    async def fail_overdue(self) -> None:
        """End the jobs that were to begin by now and have not; any part of the service may call this at any time."""
        errors = _error_json(StartDeadline()), _error_json(RecordUnreadable())
        looked_at = OVERDUE_LIMIT
        while looked_at == OVERDUE_LIMIT:
            looked_at, aside = await self._run("overdue", OVERDUE_LIMIT, *errors)
            _log_aside(aside)

    async def purge(self) -> list[str]:
        """Clear away what is left of jobs past their retention; for a week their owners are still told that they are gone.

        Returns:
            Their ids, some at a time; whoever gets them removes their files.
        """
        gone, odd = await self._run("purge", RESCUE_LIMIT)
        _log_aside(odd)
        return cast("list[str]", gone)

    async def counts(self) -> dict[str, int]:
        """Count queued and running jobs now, and jobs that ended since the store began."""
        finals = [status for status in JobStatus if status.is_final]
        async with self.redis.pipeline(transaction=False) as pipe:
            for name in ("queued", "queued:interactive", "queued:bulk", "running"):
                pipe.zcard(self._key(name))
            pipe.mget([self._key(f"count:{status}") for status in finals])
            *queued, running, ended = await pipe.execute()
        return {"queued": sum(queued), "running": running} | {s.value: int(n or 0) for s, n in zip(finals, ended, strict=True)}

    def end_of(self, job_id: str) -> Waiter:
        """Wait for the end of a job while a block runs, see :class:`shared.store.notifier.News`."""
        return self.redis.notifier.about(FINALS, job_id, ("HGET", self._key(f"job:{job_id}"), "status"))

    async def cancels(self) -> AsyncGenerator[str]:
        """Hear of running jobs that are to be cancelled. Messages can be missed: the record is what counts."""
        async with aclosing(hear(self.redis, self._key("cancels"))) as messages:
            async for _, job_id in messages:
                if job_id is not None:
                    yield job_id


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
