"""OpenAI's responses: each is a view of a job, which goes on in the background or with its client's connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from api.answers import Deleted
from api.authentication import KeyedRoute, OwnerDep
from api.error_responses import openai_error
from api.idempotency import IdempotencyKeyDep
from api.openai import answers
from api.openai.chat import cancel_job, finished_output, submit_openai, translate, wait_or_cancel
from api.openai.chat_to_job import CHAT_START_DEADLINE_S
from api.openai.response_request import ResponseRequest, echoed_by, in_its_own_words, to_chat
from api.openai.response_view import ResponseEvents, view
from api.openai.streams import follow_job
from api.services import Services, ServicesDep
from api.sse import STREAMED, EventStream, written
from shared.errors import CancelledByClient, Gone, NotFound, SightlineError
from shared.jobs import Job, Priority, response_id

router = APIRouter(prefix="/v1/responses", tags=["openai"], route_class=KeyedRoute)

#: What is not to be stored stays for so long after its end, until it is answered.
UNSTORED_TTL_S = 60


@router.post("", response_model=answers.ModelResponse, responses=STREAMED)
async def create_response(
    body: ResponseRequest, request: Request, services: ServicesDep, owner: OwnerDep, idempotency_key: IdempotencyKeyDep = None
) -> dict[str, Any] | Response:
    """Answer, ahead of other jobs, or at once with what will be answered in the background.

    A client that hangs up cancels what is not in the background.
    """
    with in_its_own_words(body):
        job, echoed = await _submit(body, services, owner=owner, idempotency_key=idempotency_key)
        if body.stream:
            return _stream(_events(job, echoed, services, tied=not body.background), services, owner)
        if not body.background:
            job = await wait_or_cancel(job.id, request, services, owner=owner)
            finished_output(job)
    return view(job, echoed)


async def _submit(
    body: ResponseRequest, services: Services, *, owner: str, idempotency_key: str | None
) -> tuple[Job, dict[str, Any]]:
    deadline_s = services.settings.start_deadline_s if body.background else CHAT_START_DEADLINE_S
    job = translate(to_chat(body), services, deadline_s=deadline_s)
    echoed = echoed_by(body, job)
    if not body.is_stored:
        job = job.model_copy(update={"result_ttl_s": UNSTORED_TTL_S})
    job_id, _ = await submit_openai(
        job,
        services,
        owner=owner,
        priority=Priority.DEFAULT if body.background else Priority.INTERACTIVE,
        watched=bool(body.stream),
        response=echoed if body.is_stored else None,
        idempotency_key=idempotency_key,
    )
    return await services.store.get(job_id, owner=owner), echoed


@router.get("/{response_id}", response_model=answers.ModelResponse, responses=STREAMED)
async def get_response(
    response_id: str,
    services: ServicesDep,
    owner: OwnerDep,
    stream: bool = False,  # noqa: FBT001, FBT002  # FastAPI's form
    starting_after: Annotated[int, Query(ge=0, le=2**53, description="Go on after this `sequence_number`.")] | None = None,
) -> dict[str, Any] | Response:
    """Read a response; with ``stream`` its events, from the first on or after one, then as they happen, up to its end."""
    job, echoed = await _find(response_id, services, owner=owner)
    if not stream:
        return view(job, echoed)
    if not job.status.is_final:
        await services.events.watch(job.id)
    after = -1 if starting_after is None else starting_after
    return _stream(_events(job, echoed, services, after=after), services, owner, last=max(0, after))


@router.post("/{response_id}/cancel", response_model=answers.ModelResponse)
async def cancel_response(response_id: str, services: ServicesDep, owner: OwnerDep) -> dict[str, Any]:
    """Cancel a response, within about a second; one that has ended is shown as it is."""
    job, echoed = await _find(response_id, services, owner=owner)
    await services.store.cancel(job.id, CancelledByClient())
    return view(await services.waiter.wait(job.id, owner=owner, wait_s=2), echoed)


@router.delete("/{response_id}", response_model=Deleted)
async def delete_response(response_id: str, services: ServicesDep, owner: OwnerDep) -> dict[str, Any]:
    """Delete a response, its job and what came with it; one that has not ended is cancelled."""
    job, _ = await _find(response_id, services, owner=owner)
    await services.store.delete_response(job.id, CancelledByClient())
    return {"id": response_id, "object": "response", "deleted": True}


async def _find(given: str, services: Services, *, owner: str) -> tuple[Job, dict[str, Any]]:
    """Give the job behind a response, and what the response says of its request.

    Raises:
        NotFound: there is none by that id, any more, or it is another's.
    """
    try:
        job = await services.store.get(given.replace("resp_", "job_", 1), owner=owner)
    except (NotFound, Gone):  # OpenAI's API has no word for what is gone
        job = None
    if job is None or job.response is None or response_id(job.id) != given:
        raise NotFound("there is no response by that id")
    return job, job.response


def _stream(events: AsyncGenerator[bytes], services: Services, owner: str, *, last: int = 0) -> EventStream:
    return EventStream(events, services.open_requests, owner=owner, farewell=lambda error: _error(error, last))


async def _events(
    job: Job, echoed: dict[str, Any], services: Services, *, after: int = -1, tied: bool = False
) -> AsyncGenerator[bytes]:
    """Give a response's events after a number; a stream that is tied to its job cancels it when it is left."""
    events = ResponseEvents(job, echoed)
    try:
        async with aclosing(follow_job(job.id, services)) as entries:
            async for entry in entries:
                for event in events.hear(entry):
                    if event["sequence_number"] > after:
                        yield _sent(event)
    except SightlineError as error:
        yield _error(error, max(events.last, after))
    except (asyncio.CancelledError, GeneratorExit):
        if tied:
            await asyncio.shield(services.background.add(cancel_job(job.id, services)))
        raise


def _error(error: SightlineError, last: int) -> bytes:
    """Say why a stream ends early, without a number of its own: a reader that goes on after the last one misses nothing."""
    body = openai_error(error)[1]
    # The SDK's type has the fields beside the nested ones, and its stream raises on these.
    flat = {name: body[name] for name in ("code", "message", "param")}
    return _sent({"type": "error", "sequence_number": last, **flat, "error": body})


def _sent(event: dict[str, Any]) -> bytes:
    return written(event, event=event["type"])
