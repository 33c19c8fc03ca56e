"""The jobs: create, read, list, cancel."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic_core import to_json

from api import answers
from api.authentication import FastBodyRoute, KeyedRoute, OwnerDep, owner_of
from api.idempotency import KEY_HEADER, idempotency_key
from api.job_request import JobBody
from api.services import Services, ServicesDep, services_of
from api.submit import submit
from shared.errors import AlreadyFinal, CancelledByClient, InvalidRequest
from shared.jobs import Job, JobRequest, JobStatus
from shared.settings import Settings

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=KeyedRoute)

#: A client may hold a request open this long; proxies cut connections that are silent for more.
MAX_WAIT_S = 60.0

Wait = Annotated[float, Query(ge=0, le=MAX_WAIT_S, description="Answer when the job has ended, or after this many seconds.")]


def with_urls(job: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Add to a job, as it stands in JSON, what can be done with it."""
    path = f"{settings.root_path}/v1/jobs/{job['id']}"
    return job | {"urls": {"self": path, "cancel": f"{path}/cancel", "events": f"{path}/events"}}


def view(job: Job, services: Services) -> dict[str, Any]:
    """Give a job as clients see it."""
    return with_urls(job.model_dump(mode="json"), services.settings)


#: Read by hand: FastAPI takes 30 us to find a header, and this route is the busiest.
_HEADERS = [
    {
        "name": "prefer",
        "in": "header",
        "schema": {"type": "string"},
        "description": f"`wait=N`: answer when the job has ended, or after N seconds, at most {MAX_WAIT_S:g}; "
        "`watch`: its events tell the text from the first word on, however soon it begins",
    },
    KEY_HEADER,
]


async def create_job(body: JobBody, request: Request) -> Response:
    """Accept a job. With ``Prefer: wait=N`` the answer waits up to N seconds for the job's end."""
    services, owner = services_of(request), owner_of(request)
    prefer = request.headers.get("prefer")
    wait_s, watched = _preferred_wait_s(prefer), bool(prefer and re.search(r"(^|[\s,;])watch\b", prefer))
    with body.in_its_own_words():
        given_id, created_at = await submit(
            body.to_job(), services, owner=owner, idempotency_key=idempotency_key(request), watched=watched
        )
    headers = {"location": f"{services.settings.root_path}/v1/jobs/{given_id}"}
    if created_at is None:
        headers["idempotency-replayed"] = "true"
    applied = [*([f"wait={wait_s:g}"] if wait_s is not None else []), *(["watch"] if watched else [])]
    if applied:
        headers["preference-applied"] = ", ".join(applied)
    if created_at is None or wait_s:
        job = await _wait(given_id, wait_s or 0, request, services, owner)
    else:
        model = body.model or services.models.default
        job = Job(id=given_id, status=JobStatus.QUEUED, model=model, created_at=created_at, metadata=body.metadata)
    status = 200 if job.status.is_final else 202
    return Response(to_json(view(job, services)), status_code=status, headers=headers, media_type="application/json")


router.add_api_route(
    "",
    create_job,
    methods=["POST"],
    status_code=202,
    response_model=answers.Job,
    responses={
        200: {"description": "it has ended within the wait", "model": answers.Job},
        202: {"description": "accepted; Location names the job"},
    },
    openapi_extra={"parameters": _HEADERS},
    route_class_override=FastBodyRoute,
)


@router.get("/{job_id}", response_model=answers.Job)
async def get_job(job_id: str, request: Request, services: ServicesDep, owner: OwnerDep, wait: Wait = 0) -> dict[str, Any]:
    """Read a job; with ``wait`` the answer comes when it has ended."""
    return view(await _wait(job_id, wait, request, services, owner), services)


@router.get("/{job_id}/request", response_model=JobRequest, response_model_exclude_unset=True)
async def get_request(job_id: str, services: ServicesDep, owner: OwnerDep) -> dict[str, Any]:
    """Read what a job was asked, as messages. A picture or video that came in the request itself stands there as ``data:…``."""
    await services.store.get(job_id, owner=owner)
    request = await services.store.request_of(job_id)
    asked = request.model_dump(mode="json", exclude_unset=True)
    for message in asked["messages"]:
        for part in message["content"] if isinstance(message["content"], list) else ():
            for name in {"image", "video"} & part.keys():
                given = part[name]
                part[name] = [_named(one) for one in given] if isinstance(given, list) else _named(given)
    return asked


def _named(reference: str) -> str:
    """Give what the client named; a stored file's name is ours."""
    return "data:…" if reference.startswith("blob:") else reference


async def _wait(job_id: str, wait_s: float, request: Request, services: Services, owner: str) -> Job:
    answer = services.waiter.wait(job_id, owner=owner, wait_s=wait_s)
    return await (services.open_requests.wait(answer, request.receive, owner) if wait_s else answer)


@router.post("/{job_id}/cancel", response_model=answers.Job)
async def cancel_job(job_id: str, services: ServicesDep, owner: OwnerDep) -> dict[str, Any]:
    """Cancel a job: a queued one at once, a running one within about a second. Too late, 409 shows the job as it ended."""
    await services.store.get(job_id, owner=owner)
    before = await services.store.cancel(job_id, CancelledByClient())
    job = await services.waiter.wait(job_id, owner=owner, wait_s=2)
    if before is None or before.is_final:
        msg = f"the job has already {job.status}"
        raise AlreadyFinal(msg, extra={"job": view(job, services)})
    return view(job, services)


def _preferred_wait_s(prefer: str | None) -> float | None:
    if prefer is None or not (found := re.search(r"\bwait=(\d+(?:\.\d+)?)", prefer)):
        return None
    wait_s = float(found.group(1))
    if wait_s > MAX_WAIT_S:
        msg = f"Prefer: wait takes at most {MAX_WAIT_S:g} seconds"
        raise InvalidRequest(msg, param="prefer")
    return wait_s
