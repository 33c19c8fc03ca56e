"""Streams of events, as server-sent events: of one job to its end, and of everything an owner's jobs do."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from redis.exceptions import RedisError

from api.authentication import KeyedRoute, OwnerDep
from api.jobs import with_urls
from api.services import Services, ServicesDep
from api.sse import EventStream, written
from shared.errors import Restarting, SightlineError
from shared.store.event_log import Entry
from shared.store.trouble_log import log_trouble

router = APIRouter(tags=["events"], route_class=KeyedRoute)

#: Browsers send it when they connect again; at most what Redis can number.
LastEventId = Annotated[str | None, Header(pattern=r"^\d{1,15}(-\d{1,15})?$", description="Go on after this event.")]

_DESCRIPTION: dict[int | str, dict[str, Any]] = {
    200: {"description": "a stream of events", "content": {"text/event-stream": {}}}
}


@router.get("/v1/jobs/{job_id}/events", status_code=200, response_class=EventStream, responses=_DESCRIPTION)
async def job_events(job_id: str, services: ServicesDep, owner: OwnerDep, last_event_id: LastEventId = None) -> Response:
    """Stream a job's events: all so far, then the coming ones, up to its end, which holds the job.

    The joined texts of ``job.delta`` since the last ``job.reset`` are the output's text. 204: there is nothing after this
    event, and nothing will come, so a browser does not connect again.
    """
    job = await services.store.get(job_id, owner=owner)
    after = last_event_id.partition("-")[0] if last_event_id else None
    if not job.status.is_final:
        await services.events.watch(job_id)
    entries = services.events.follow(job_id, after=after)
    if job.status.is_final and after:
        first = await anext(entries, None)
        if first is None:
            return Response(status_code=204)
        entries = _chain(first, entries)
    return _stream(entries, services, owner)


@router.get("/v1/events", status_code=200, response_class=EventStream, responses=_DESCRIPTION)
async def all_events(services: ServicesDep, owner: OwnerDep, last_event_id: LastEventId = None) -> Response:
    """Stream the states of all jobs, from now on or after an event; without the texts, which stand in each job's own."""
    return _stream(services.events.follow_owner(owner, after=last_event_id), services, owner)


async def _chain(first: Entry, rest: AsyncGenerator[Entry]) -> AsyncGenerator[Entry]:
    async with aclosing(rest):
        yield first
        async for entry in rest:
            yield entry


def _stream(entries: AsyncGenerator[Entry], services: Services, owner: str) -> EventStream:
    return EventStream(_render(entries, services), services.open_requests, owner=owner, farewell=_farewell)


async def _render(entries: AsyncGenerator[Entry], services: Services) -> AsyncGenerator[bytes]:
    try:
        async with aclosing(entries):
            async for entry in entries:
                data = with_urls(entry.data, services.settings) if entry.is_final and "status" in entry.data else entry.data
                yield written(data, event=entry.type, event_id=entry.id)
    except RedisError as error:  # the stream ends here; its reader comes back with Last-Event-ID
        log_trouble(error, chore="events")


def _farewell(error: SightlineError) -> bytes:
    """Say why the stream ends early, without an id: a reader that goes on after the last one misses nothing."""
    name = "gateway.restarting" if isinstance(error, Restarting) else "error"
    retry_ms = error.retry_after_s * 1000 if error.retry_after_s else None
    return written({"error": error.as_error()}, event=name, retry_ms=retry_ms)
