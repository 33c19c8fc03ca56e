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
from functools import partial

from redis.exceptions import ResponseError

from shared.errors import Gone, NotFound, SightlineError
from shared.jobs import Job, JobRequest, JobStatus, Output, Stage
from shared.store.claims import Claims
from shared.store.connection import FINALS
from shared.store.notifier import Waiter
from shared.store.submits import Submits
from shared.store.upkeep import Upkeep, error_json


class JobStore(Submits, Claims, Upkeep):
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

    lasting: tuple[str, ...] = (*Claims.lasting, *Submits.lasting)

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
        if owner and not read and await self._run("was_purged", job_id, owner):
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

    async def delete_response(self, job_id: str, error: SightlineError) -> None:
        """End a response's retention now, and cancel its job where it has not ended; from here on it is no response."""
        await self._run("delete_response", job_id, error_json(error))

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
