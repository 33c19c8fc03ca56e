"""Streams of events, as server-sent events: of one job to its end, and of everything an owner's jobs do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Header, Response
from redis.exceptions import RedisError
from sse_starlette import EventSourceResponse, ServerSentEvent

from api.deps import KeyedRoute, OwnerDep, PartsDep
from api.jobs import with_urls
from api.leaving import RETRY_AFTER_S
from api.streams import event_stream
from shared.errors import Restarting
from shared.event_log import Entry

log = structlog.get_logger()
router = APIRouter(tags=["events"], route_class=KeyedRoute)

#: Browsers send it when they connect again; at most what Redis can number.
LastEventId = Annotated[str | None, Header(pattern=r"^\d{1,15}(-\d{1,15})?$", description="Go on after this event.")]

_DESCRIPTION: dict[int | str, dict[str, Any]] = {
    200: {"description": "a stream of events", "content": {"text/event-stream": {}}}
}


@router.get("/v1/jobs/{job_id}/events", response_class=EventSourceResponse, responses=_DESCRIPTION)
async def job_events(job_id: str, parts: PartsDep, owner: OwnerDep, last_event_id: LastEventId = None) -> Response:
    """Stream a job's events: all so far, then the coming ones, up to its end, which holds the job.

    The joined texts of ``job.delta`` since the last ``job.reset`` are the output's text. 204: there is nothing after this
    event, and nothing will come, so a browser does not connect again.
    """
    job = await parts.store.get(job_id, owner=owner)
    after = last_event_id.partition("-")[0] if last_event_id else None
    if not job.status.is_final:
        await parts.events.watch(job_id)
    entries = parts.events.follow(job_id, after=after)
    if job.status.is_final and after:
        first = await anext(entries, None)
        if first is None:
            return Response(status_code=204)
        entries = _chain(first, entries)
    return _stream(entries)


@router.get("/v1/events", response_class=EventSourceResponse, responses=_DESCRIPTION)
async def all_events(parts: PartsDep, owner: OwnerDep, last_event_id: LastEventId = None) -> Response:
    """Stream the states of all jobs, from now on or after an event; without the texts, which stand in each job's own."""
    return _stream(parts.events.follow_owner(owner, after=last_event_id))


async def _chain(first: Entry, rest: AsyncIterator[Entry]) -> AsyncIterator[Entry]:
    yield first
    async for entry in rest:
        yield entry


def _stream(entries: AsyncIterator[Entry]) -> EventSourceResponse:
    error = Restarting().as_error()
    # It has no id: whoever comes back goes on after the last event of the log.
    farewell = ServerSentEvent(json.dumps({"error": error}), event="gateway.restarting", retry=RETRY_AFTER_S * 1000)
    return event_stream(_render(entries), farewell=farewell)


async def _render(entries: AsyncIterator[Entry]) -> AsyncIterator[ServerSentEvent]:
    try:
        async for entry in entries:
            data = with_urls(entry.data) if entry.is_final and "status" in entry.data else entry.data
            yield ServerSentEvent(json.dumps(data, ensure_ascii=False), event=entry.type, id=entry.id)
    except RedisError:  # the stream ends here; its reader comes back with Last-Event-ID
        log.warning("store.unreachable", chore="events")
