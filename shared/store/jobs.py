"""The job records in Redis: the truth about every job. All moves are Lua scripts, so each happens once or not at all.

Keys, behind one prefix: ``job:<id>`` the record (hash) · ``q:<class>:<model>:<owner>`` queued ids → created ·
``ready:<class>:<model>`` owners who have queued jobs and may run more → virtual time · ``owner:<owner>`` (hash:
``max_queued``, ``max_running``, ``max_jobs_day``, ``max_vision_tokens_day``, ``weight`` of its key, ``queued``, ``running``,
``vt:<class>:<model>`` its time where it is in no ``ready``, ``day`` and ``used:<model>`` of :mod:`shared.store.usage`,
``endpoints``, ``feed_until_ms``) · ``totals`` (hash: ``queued``, ended ones by status, ``minute``, ``ended`` and
``ended_before`` of that minute and the one before, ``suspects:<model>`` where there are some, ``turn:<model>``,
``vt:<class>:<model>``, and the counts of :mod:`shared.store.tallies`) · ``deadlines`` id → when it must have begun ·
``delayed`` id → when it may start · ``workers`` worker → end of its lease, which is that of all its jobs · ``held:<worker>``
id → fence and owner (hash) · ``orders:<worker>`` ids to cancel · ``asked:<worker>`` what its last call got ·
``hungry:<model>`` workers whose last call came back short → when · ``suspects:<model>`` ids of jobs in whose company an
engine died → their group · ``minder:<model>`` the worker that has to do with them · ``bell:<model>`` the text of a doorbell
· ``retained`` id, owner and group → end of retention · lists of jobs, see :mod:`shared.store.selection` · ``gone:<day>``
bits of purged ids · ``promised:<owner>`` lines of batches whose jobs are to come · ``idem:<owner>:<key>`` · ``clock`` (hash:
``beat_ms``, when a worker last wrote, and ``seen_ms``, the latest time seen, by which a clock set back is noticed) ·
channels ``finals`` and ``cancels``. Scores are ms by Redis's clock.
"""

from __future__ import annotations

import asyncio
import json
import math
from functools import cached_property, partial
from typing import Any, cast

from redis.exceptions import DataError, ResponseError

from shared.errors import (
    Gone,
    KeyReused,
    NotFound,
    QueueFull,
    RateLimited,
    RecordUnreadable,
    SightlineError,
)
from shared.jobs import Job, JobRequest, JobStatus, Output, Priority, Stage, estimated_tokens
from shared.settings import Settings
from shared.store.autopipeline import AutoPipeline
from shared.store.batches import Lease, LeaseLost
from shared.store.claims import Claims
from shared.store.connection import FINALS, NotReplicated
from shared.store.deliveries import target_of
from shared.store.notifier import Waiter
from shared.store.upkeep import Upkeep, error_json, log_aside
from shared.store.usage import quota_exceeded

#: A script keeps Redis from others while it runs: a submit takes it some 0.1 ms.
MOST_SUBMITS = 8
IDEMPOTENCY_TTL_S = 24 * 3600
USUAL_TTL_S = 24 * 3600  #: how long an ended job is kept whose record does not tell

#: What the script `submit` is told of a job.
Facts = tuple[str | int | float, ...]


class JobStore(Claims, Upkeep):
    """Takes, reads and ends jobs for clients; workers claim and end them by :class:`Claims`.

    The fields of a record, by who writes them; what is not there yet has no field:

    ==================  ===============================================================================================
    submit              ``owner``, ``class`` (none: default), ``model``, ``request`` (JSON, see :class:`JobRequest`),
                        ``metadata`` (JSON), ``created_ms``, ``start_deadline_s``, ``run_timeout_s``, ``result_ttl_s`` (none: a
                        day), ``status`` (queued), ``attempt`` and ``fence`` (0), ``cost`` (tokens, estimated), ``group``,
                        ``retry_of``; of a job
                        with a webhook ``webhook_url``, ``_target``, ``_payload`` and ``_events``; of one of OpenAI's responses
                        ``response`` (JSON); where jobs are traced ``traceparent``, the span that made it
    claim               ``status``, ``stage``, ``worker``, ``started_ms``, ``attempt``, ``fence``
    stage               ``stage``
    release, rescue     ``status``, ``attempt``, ``fence``, ``released`` (who handed it back, with which fence)
    suspect             the same; ``suspect``, its group, and ``engine_deaths``: 1, and 1 more for each engine that died with it
                        alone
    cancel              ``cancel``: the error (JSON) with which a running job is to end
    any end             ``status``, ``finished_ms``, ``output`` and ``error`` (JSON); what only a run needs goes: ``stage``,
                        ``cost``, ``start_deadline_s``, ``run_timeout_s``
    events              ``deliveries``: ids of those that do not follow from the job's
    all that move it    ``hist``, ``events``: see :class:`shared.store.event_log.EventLog`
    retry               ``retried_as``
    readers             ``watched``: somebody reads the text while it is generated
    ==================  ===============================================================================================
    """

    lasting: tuple[str, ...] = (*Claims.lasting, "submit")

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
        retry_of: str | None = None,
        lease: Lease | None = None,
        traceparent: str = "",
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
            retry_of: the job that it tries anew.
            lease: of the batch whose line it is; batches leave a share of both limits free.
            traceparent: of the span that makes it, where jobs are traced.

        Returns:
            The job's id, and when it was created; None instead where it is an earlier job with the same key.

        Raises:
            QueueFull: ``max_queued`` jobs wait already.
            RateLimited: as many of this owner's jobs wait as its key may have.
            QuotaExceeded: its key may do no more today.
            KeyReused: the key came with another body before.
            LeaseLost: the batch is another runner's by now.
            NotReplicated: the job stands, but may be lost with Redis's machine.
        """
        key, body = idempotency or ("", "")
        said = None if response is None else json.dumps(response, ensure_ascii=False)
        maybe = {"retry_of": retry_of, "watched": int(watched), "response": said, "traceparent": traceparent}
        if priority is not Priority.DEFAULT:
            maybe["class"] = priority
        fields = _fields(request, settings, owner) | {name: value for name, value in maybe.items() if value}
        flat = [part for pair in fields.items() for part in pair]
        batch = settings.chat_reserve if priority is Priority.BULK else 0, *(lease or ("", ""))
        facts = key, body, IDEMPOTENCY_TTL_S, *batch, priority, request.group or "", *flat
        try:
            answer = await self._submits.send((job_id, owner, settings.max_queued, *facts))
        except NotReplicated as error:
            answer = error.answer
            if answer[0] in {"new", "replay"}:
                raise NotReplicated(answer, answer[1]) from error
        if answer[0] == "damaged":
            log_aside([f"owner:{owner}"])
            raise RecordUnreadable
        _check(answer)
        return answer[1], answer[2] / 1000 if answer[0] == "new" else None

    @cached_property
    def _submits(self) -> AutoPipeline[Facts]:
        return self.redis.gather(self._submit)

    async def _submit(self, jobs: list[Facts]) -> list[Any]:
        """Write jobs, many in a call: what they change of an owner, and of what is counted, is written once for all of them."""
        calls = [jobs[n : n + MOST_SUBMITS] for n in range(0, len(jobs), MOST_SUBMITS)]
        return [answer for answers in await asyncio.gather(*map(self._submit_some, calls)) for answer in answers]

    async def _submit_some(self, jobs: list[Facts]) -> list[Any]:
        try:
            return cast("list[Any]", await self._run("submit", *(part for facts in jobs for part in (len(facts), *facts))))
        except NotReplicated as error:
            return [NotReplicated(answer) for answer in error.answer]
        except (DataError, ValueError) as error:  # one of them cannot be written, and nothing was
            return [error] if len(jobs) == 1 else [(await self._submit_some([facts]))[0] for facts in jobs]
        except Exception as error:  # noqa: BLE001  # whoever submitted gets it
            return [error] * len(jobs)

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

    async def request_of(self, job_id: str) -> JobRequest:
        """Read what a job was asked, whose owner the caller has checked.

        Raises:
            NotFound: no such job, or its retention is over.
            RecordUnreadable: the record is damaged, or of another version.
        """
        read = await self._record(f"job:{job_id}", lambda record: JobRequest.model_validate_json(record["request"]))
        if read is None:
            raise NotFound("there is no job by that id")
        return read

    def parse(self, job_id: str, record: dict[str, str]) -> Job | None:
        """Make a job of the record that a script has read; None where there was none.

        Raises:
            RecordUnreadable: the record is damaged, or of another version.
        """
        return self._parsed(f"job:{job_id}", record, partial(_job, job_id))

    async def _owned(self, job_id: str) -> tuple[str, Job] | None:
        return await self._record(f"job:{job_id}", lambda record: (record["owner"], _job(job_id, record)))

    async def cancel(self, job_id: str, error: SightlineError) -> JobStatus | None:
        """Cancel a job: at once while queued, else by its worker, which is asked to.

        Returns:
            Its state before; None where there is no such job.
        """
        status = await self._run("cancel", job_id, error_json(error))
        return JobStatus(status) if status else None

    async def forget(self, job_id: str, error: SightlineError) -> None:
        """End a response's retention now, and cancel its job where it has not ended; from here on it is no response."""
        await self._run("forget", job_id, error_json(error))

    async def counts(self) -> dict[str, int]:
        """Count queued and running jobs now, and jobs that ended since the store began."""
        finals = [status for status in JobStatus if status.is_final]
        totals = self.redis.ask("HMGET", self._key("totals"), "queued", *finals)
        (queued, *ended), workers = await asyncio.gather(totals, self.redis.ask("ZRANGE", self._key("workers"), 0, -1))
        held = await asyncio.gather(*map(self._n_held, workers))
        counts = {"queued": max(0, int(queued or 0)), "running": sum(held)}
        return counts | {status.value: int(n or 0) for status, n in zip(finals, ended, strict=True)}

    async def _n_held(self, worker: str) -> int:
        """Count what a worker holds; none, where that is damaged."""
        try:
            return int(await self.redis.ask("HLEN", self._key(f"held:{worker}")))
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            return 0

    def end_of(self, job_id: str) -> Waiter:
        """Wait for the end of a job while a block runs, see :class:`shared.store.notifier.News`."""
        return self.redis.notifier.about(self._key(FINALS), job_id, ("HGET", self._key(f"job:{job_id}"), "status"))


def _fields(request: JobRequest, settings: Settings, owner: str) -> dict[str, str | int]:
    """Give the fields of a record that say what is to be done."""
    fields: dict[str, str | int] = {
        "model": request.model or settings.served_model_name,
        "start_deadline_s": request.start_deadline_s or settings.start_deadline_s,
        "run_timeout_s": request.run_timeout_s or settings.run_timeout_s,
        "cost": _cost(request, settings),
        "request": request.model_dump_json(exclude_defaults=True),
        "metadata": json.dumps(request.metadata, ensure_ascii=False),
    }
    ttl_s = request.result_ttl_s or settings.result_ttl_s
    if ttl_s != USUAL_TTL_S:
        fields["result_ttl_s"] = ttl_s
    if request.group:
        fields["group"] = request.group
    if request.webhook:
        fields["webhook_url"] = request.webhook.url
        fields["webhook_target"] = target_of(owner, request.webhook.url)
        fields["webhook_payload"] = request.webhook.payload
        fields["webhook_events"] = "".join(f"{event} " for event in request.webhook.events)
    return fields


def _cost(request: JobRequest, settings: Settings) -> int:
    video_px = settings.max_frames * settings.frame_min_pixels // 2  # two frames make one, and many are shown as small ones
    return estimated_tokens(request, image_px=settings.max_pixels, video_px=video_px)


def _check(answer: list[Any]) -> None:
    """Raise what a refused submit says."""
    match answer:
        case "lost", *_:
            raise LeaseLost
        case "reused", *_:
            raise KeyReused
        case "full", queued, ended:
            msg = f"{queued} jobs are waiting, which is as many as this service takes"
            raise QueueFull(msg, retry_after_s=_drained_after_s(queued, ended))
        case "limited", limit:
            msg = f"{limit} jobs of this API key are waiting, which is as many as it may have"
            raise RateLimited(msg, retry_after_s=5)
        case "spent", what, most, left_s:
            raise quota_exceeded(what, most, left_s)


def _drained_after_s(queued: int, ended: int) -> int:
    """Estimate when a full queue has some room again, from what ended in the last one to two minutes."""
    per_s = ended / 90
    return min(600, max(1, math.ceil(0.05 * queued / per_s))) if per_s else 60


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
        group=record.get("group"),
        retry_of=record.get("retry_of"),
        retried_as=record.get("retried_as"),
        response=json.loads(record["response"]) if "response" in record else None,
    )
