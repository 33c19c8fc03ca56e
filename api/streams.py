"""A job's text as it is generated, for streams that cannot take back what they have said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, TypeVar

import anyio
import structlog
from redis.exceptions import RedisError
from sse_starlette import EventSourceResponse, ServerSentEvent

from api.deps import Parts
from shared.aio import cancel_all
from shared.errors import StoreUnavailable, StreamBroken
from shared.event_log import Entry
from shared.jobs import Job

log = structlog.get_logger()

T = TypeVar("T")
HEARTBEAT_S = 15  #: proxies cut connections that are silent for a minute
SEND_TIMEOUT_S = 30  #: a reader that takes nothing for so long is cut off; it may come back where it was
#: What a gateway that leaves gives its streams to say so; uvicorn gives it five.
FAREWELL_S = 2.0


class Telling:
    """What a stream has told of a text that may begin again. Pure."""

    def __init__(self) -> None:
        """Begin with nothing told."""
        self.told = ""
        self._text = ""

    def restart(self) -> None:
        """The text begins again, as the job did on another worker."""
        self._text = ""

    def add(self, piece: str) -> str:
        """Take a piece of the text, and give what of it is new to the reader.

        Raises:
            StreamBroken: the text is no longer the one that the reader was told.
        """
        self._text += piece
        if not self.told.startswith(self._text[: len(self.told)]):
            raise StreamBroken
        new = self._text[len(self.told) :]
        self.told += new
        return new

    def end(self, text: str) -> str:
        """Take the whole text, and give what is still new to the reader.

        Raises:
            StreamBroken: as :meth:`add`, or the text is shorter than what was told.
        """
        if not text.startswith(self.told):
            raise StreamBroken
        new, self.told = text[len(self.told) :], text
        return new


async def follow_job(job_id: str, parts: Parts) -> AsyncGenerator[Entry]:
    """Give a job's events up to its end.

    Raises:
        StoreUnavailable: Redis is away, or forgot the job.
    """
    try:
        async for entry in parts.events.follow(job_id):
            yield entry
            if entry.is_final:
                return
    except RedisError as error:
        log.warning("store.unreachable", chore="stream")
        raise StoreUnavailable from error
    raise StoreUnavailable("the job's events are gone; ask again")


async def follow_text(job_id: str, parts: Parts) -> AsyncGenerator[str | Job]:
    """Give the pieces of a job's text, then the ended job.

    A job that begins again on another worker goes on where the stream is, as long as it says the same.

    Raises:
        StreamBroken: it says something else.
        StoreUnavailable: Redis is away, or forgot the job.
    """
    telling = Telling()
    async with aclosing(follow_job(job_id, parts)) as entries:
        async for entry in entries:
            if entry.is_final:
                job = Job.model_validate(entry.data)
                if job.output and job.status == "succeeded" and (rest := telling.end(job.output.text)):
                    yield rest
                yield job
            elif entry.type == "job.delta" and (piece := telling.add(entry.data["text"])):
                yield piece
            elif entry.type == "job.reset":
                telling.restart()


def event_stream(
    data: AsyncIterator[str | ServerSentEvent], *, farewell: str | ServerSentEvent | None = None
) -> EventSourceResponse:
    """Answer with server-sent events.

    Args:
        data: gives the data of each event, or the whole of it.
        farewell: a last event, or its data, where the gateway leaves before the stream has ended: it must not look whole.
    """
    leaving = anyio.Event()
    items = aiter(data)

    async def events() -> AsyncIterator[ServerSentEvent]:
        async for item in _until(leaving, items) if farewell else items:
            yield _event(item)
        if farewell and leaving.is_set():
            yield _event(farewell)

    how: dict[str, Any] = {"shutdown_event": leaving, "shutdown_grace_period": FAREWELL_S} if farewell else {}
    return EventSourceResponse(events(), ping=HEARTBEAT_S, send_timeout=SEND_TIMEOUT_S, sep="\n", **how)


def _event(item: str | ServerSentEvent) -> ServerSentEvent:
    return item if isinstance(item, ServerSentEvent) else ServerSentEvent(item)


async def _until(event: anyio.Event, items: AsyncIterator[T]) -> AsyncIterator[T]:
    """Pass items on until the event; the one that is being waited for is cancelled then."""
    happened, coming = asyncio.create_task(event.wait()), asyncio.create_task(_next(items))
    try:
        while True:
            await asyncio.wait({coming, happened}, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done() or (item := coming.result()) is None:
                return
            yield item
            coming = asyncio.create_task(_next(items))
    finally:
        await cancel_all({coming, happened})


async def _next(items: AsyncIterator[T]) -> T | None:
    return await anext(items, None)
