"""The ends of many jobs, heard by one stream of events; where that does not come, each job is asked for."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from sightline.client.errors import ServiceError

if TYPE_CHECKING:
    from sightline.client.aio import AsyncClient, AsyncJob

#: A stream that has not begun by then does not reach us: a proxy holds it back.
OPENS_WITHIN_S = 5.0
#: A job that no event tells of is looked at all the same; streams are cut, and logs have an end.
LOOK_EVERY_S = 20.0
#: Ends that are remembered for jobs whose ids are not known yet: the answer to a submission may come after its end.
REMEMBERED = 4096


class Ends:
    """Tells when jobs have ended, while its ``async with`` block runs."""

    def __init__(self, client: AsyncClient) -> None:
        """Use a client, which stays open."""
        self._client = client
        self._waiting: dict[str, asyncio.Event] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._opened = asyncio.Event()
        self.streams: bool = True  #: whether the stream comes
        self._lost: ServiceError | None = None
        self._listening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to listen."""
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening."""
        if self._listening:
            self._listening.cancel()
            await asyncio.wait([self._listening])

    async def wait(self, job: AsyncJob) -> AsyncJob:
        """Wait for a job's end.

        Raises:
            ServiceError: the job cannot be read any more, or the service is away.
        """
        news = self._waiting[job.id] = asyncio.Event()
        if job.id in self._ended:
            news.set()
        try:
            while not job.is_final:
                if not await self._stream_comes():
                    return await job.wait()
                with suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), LOOK_EVERY_S)
                news.clear()
                if self._lost:
                    raise self._lost
                await job.refresh()
        finally:
            del self._waiting[job.id]
        return job

    async def _stream_comes(self) -> bool:
        if self.streams and not self._opened.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._opened.wait(), OPENS_WITHIN_S)
            self.streams = self._opened.is_set()
        return self.streams

    async def _listen(self) -> None:
        try:
            async for event in self._client.events():
                self._opened.set()
                if event.type in {"feed.opened", "history_truncated"}:  # what was missed is not known: all are looked at
                    for news in self._waiting.values():
                        news.set()
                if event.is_final and (job_id := event.data.get("id")):
                    self._ended[job_id] = None
                    if len(self._ended) > REMEMBERED:
                        self._ended.popitem(last=False)
                    if news_of := self._waiting.get(job_id):
                        news_of.set()
        except ServiceError as error:  # away for long, which nobody need find out again; or refused: each job is asked for
            self.streams, self._lost = False, error if error.is_lost else None
            self._opened.set()
            for news in self._waiting.values():
                news.set()
