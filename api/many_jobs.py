"""Many jobs at once: list them by filter, cancel and retry all that match."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import Field

from api import answers
from api.authentication import KeyedRoute, OwnerDep
from api.idempotency import KEY_HEADER, idempotency_key
from api.job_filter import JobFilter
from api.jobs import view
from api.services import Services, ServicesDep
from api.submit import submit
from shared.errors import AlreadyFinal, CancelledByClient, Gone, InvalidRequest, MediaUnreadable, SightlineError
from shared.fields import Strict
from shared.jobs import Job, JobRequest, JobStatus
from shared.messages import Message, Part, TextPart, VideoPart
from shared.store.selection import Filter, Page

router = APIRouter(tags=["jobs"], route_class=KeyedRoute)

#: One call works for so long, and tells how far it came; whoever waits longer has a proxy that does not.
MAX_WORK_S = 20.0
#: Retries that are under way at a time.
AT_A_TIME = 16
FINAL = tuple(status for status in JobStatus if status.is_final)
OPEN = tuple(status for status in JobStatus if not status.is_final)


class Many(Strict):
    """Which jobs; ``dry_run`` only counts them."""

    filter: JobFilter
    dry_run: bool = False


class JobList(JobFilter):
    """A page of a list."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    after: str | None = None
    counts: bool = False


@router.get("/v1/jobs", response_model=answers.JobPage)
async def list_jobs(wanted: Annotated[JobList, Query()], services: ServicesDep, owner: OwnerDep) -> dict[str, Any]:
    """List jobs, newest first; ``after`` takes the ``last_id`` of the page before.

    ``status``, ``group``, ``since``, ``until`` and ``ids`` (200 at most) are looked up. For ``class``, ``model``, ``code`` and
    ``q`` 1,000 jobs are looked at for a page, fewer where they are long; it may be short, or empty, while ``has_more`` says
    that there are others.
    ``counts=true`` adds ``counts``, of all states, by ``group``, ``since`` and ``until``.
    """
    chosen = wanted.among()
    counts = {}
    if wanted.counts:
        if not chosen.is_by_index:
            msg = "counts goes with status, group, since and until; POST /v1/jobs/cancel with dry_run counts the others"
            raise InvalidRequest(msg, param="counts")
        counts = {"counts": await services.selection.count(owner, chosen)}
    if wanted.ids:
        jobs = [job for job in await read_jobs(wanted.ids, services, owner) if job.status in chosen.statuses]
        page = Page([job.id for job in jobs], jobs[-1].id if jobs else "", more=False)
    else:
        page = await services.selection.page(owner, chosen, limit=wanted.limit, after=wanted.after)
        jobs = await read_jobs(page.ids, services, owner)
    ids = {"first_id": jobs[0].id if jobs else None, "last_id": page.last or None}
    return {"object": "list", "data": [view(job, services) for job in jobs], "has_more": page.more, **ids, **counts}


@router.post("/v1/jobs/cancel", response_model=answers.ManyDone)
async def cancel_jobs(body: Many, services: ServicesDep, owner: OwnerDep) -> dict[str, Any]:
    """Cancel all jobs that match and have not ended: queued ones at once, running ones within about a second."""
    matched = done = 0
    async for ids in _found(body.filter.among(*OPEN), services, owner):
        matched += len(ids)
        if not body.dry_run:
            done += await services.selection.cancel(ids, CancelledByClient())
    return {"object": "jobs.cancel", "matched": matched, "done": done, "dry_run": body.dry_run}


@router.post("/v1/jobs/retry", response_model=answers.ManyDone)
async def retry_jobs(body: Many, services: ServicesDep, owner: OwnerDep) -> dict[str, Any]:
    """Try all jobs anew that match, have ended and were not retried yet; left out, ``status`` is failed ones."""
    wanted = body.filter.among(*(FINAL if body.filter.status else (JobStatus.FAILED,)), not_retried=True)
    matched = done = 0
    refused: SightlineError | None = None
    slots = asyncio.Semaphore(AT_A_TIME)

    async def again(job_id: str) -> SightlineError | None:
        async with slots:
            try:
                await _again(job_id, services, owner, key=f"retry:{job_id}")
            except SightlineError as error:
                return error
            return None

    began = time.monotonic()
    async for ids in _found(wanted, services, owner):
        matched += len(ids)
        if body.dry_run or refused or time.monotonic() - began > MAX_WORK_S:
            continue
        errors = [error for error in await asyncio.gather(*map(again, ids)) if error]
        done += len(ids) - len(errors)
        refused = errors[0] if errors else None
    if refused and not done:
        raise refused
    why = {"error": refused.as_error()} if refused else {}
    return {"object": "jobs.retry", "matched": matched, "done": done, "dry_run": body.dry_run, **why}


@router.post("/v1/jobs/{job_id}/retry", status_code=202, response_model=answers.Job, openapi_extra={"parameters": [KEY_HEADER]})
async def retry_job(job_id: str, request: Request, services: ServicesDep, owner: OwnerDep) -> dict[str, Any]:
    """Try a job anew that has ended: a new job with the same request, whose ``retry_of`` names this one."""
    job = await services.store.get(job_id, owner=owner)
    if not job.status.is_final:
        msg = f"the job is {job.status}; it can be tried anew when it has ended"
        raise AlreadyFinal(msg)
    new_id = await _again(job_id, services, owner, key=idempotency_key(request))
    return view(await services.store.get(new_id, owner=owner), services)


async def _found(wanted: Filter, services: Services, owner: str) -> AsyncIterator[list[str]]:
    """Give the ids that match, some at a time."""
    if not wanted.ids:
        async for ids in services.selection.pages(owner, wanted):
            yield ids
        return
    jobs = await read_jobs(wanted.ids, services, owner)
    yield [job.id for job in jobs if job.status in wanted.statuses and not (wanted.not_retried and job.retried_as)]


async def read_jobs(ids: list[str] | tuple[str, ...], services: Services, owner: str) -> list[Job]:
    """Read jobs; those that are gone, another owner's or damaged are left out."""
    answers = await asyncio.gather(*(services.store.get(job_id, owner=owner) for job_id in ids), return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, SightlineError):
            raise answer
    return [answer for answer in answers if isinstance(answer, Job)]


async def _again(job_id: str, services: Services, owner: str, *, key: str | None = None) -> str:
    """Submit a job's request as a new one; what came in it is stored anew, since files go with their record."""
    request = await services.store.request_of(job_id)
    messages = [await _with_files(message, services) for message in request.messages]
    body = JobRequest.model_construct(request.model_fields_set, **dict(request) | {"messages": messages})
    new_id, _ = await submit(body, services, owner=owner, idempotency_key=key, retry_of=job_id)
    await services.selection.note_retry(job_id, new_id)
    return new_id


async def _with_files(message: Message, services: Services) -> Message:
    async def given(reference: str) -> str:
        if not reference.startswith("blob:"):
            return reference
        try:
            data = await services.blobs.get(reference.removeprefix("blob:"))
        except MediaUnreadable as error:
            msg = "the pictures that came with the job are no longer kept; send them again"
            raise Gone(msg) from error
        return f"data:;base64,{base64.b64encode(data).decode()}"

    if isinstance(message.content, str):
        return message
    parts = list[Part]()
    for part in message.content:
        if isinstance(part, TextPart):
            parts.append(part)
        elif isinstance(part, VideoPart):
            video = [await given(one) for one in part.video] if isinstance(part.video, list) else await given(part.video)
            parts.append(part.model_copy(update={"video": video}))
        else:
            parts.append(part.model_copy(update={"image": await given(part.image)}))
    return message.model_copy(update={"content": parts})
