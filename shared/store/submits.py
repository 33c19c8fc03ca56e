"""How a job's record is written and queued: one call for as many as come together, each answered for itself."""

from __future__ import annotations

import asyncio
import json
import math
from functools import cached_property
from typing import Any, cast

from redis.exceptions import DataError

from shared.errors import KeyReused, QueueFull, RateLimited, RecordUnreadable
from shared.jobs import JobRequest, Priority, estimated_tokens
from shared.settings import Settings
from shared.store.autopipeline import AutoPipeline
from shared.store.batch_leases import Lease, LeaseLost
from shared.store.connection import NotReplicated
from shared.store.deliveries import target_of
from shared.store.records import Records, flat
from shared.store.upkeep import log_aside
from shared.store.usage import quota_exceeded

#: A script keeps Redis from others while it runs: a submit takes it some 0.1 ms.
MOST_SUBMITS = 8
IDEMPOTENCY_TTL_S = 24 * 3600
USUAL_TTL_S = 24 * 3600  #: how long an ended job is kept whose record does not tell

#: What the script `submit` is told of a job.
Facts = tuple[str | int | float, ...]


class Submits(Records):
    """Takes jobs; the fields that it writes stand in :class:`shared.store.jobs.JobStore`."""

    lasting: tuple[str, ...] = ("submit",)

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
        batch = settings.chat_reserve if priority is Priority.BULK else 0, *(lease or ("", ""))
        facts = key, body, IDEMPOTENCY_TTL_S, *batch, priority, request.group or "", *flat(fields)
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
