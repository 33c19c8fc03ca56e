"""Many pieces of work at a time, as many as the service has places for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from sightline.client.errors import ServiceError

if TYPE_CHECKING:
    from sightline.client.aio import AsyncClient

T = TypeVar("T")
R = TypeVar("R")

LEAST = 16  #: in flight also where no worker is there yet
MOST = 2048  #: beyond it, a client's own work is what is slow
PLACES = 64  #: of a worker that does not say
FRESH_S = 5.0
#: More than the workers' places: some are being uploaded, some read, and a place that becomes free has a job waiting.
AHEAD = 2.0


class Room:
    """Says how many jobs to have in flight: what keeps all ready workers busy, or what was asked for."""

    def __init__(self, client: AsyncClient, window: int | None = None) -> None:
        """Ask this client's service, unless a window is given."""
        self._client, self._window = client, window
        self._places, self._read_s = LEAST, 0.0
        self._reading: asyncio.Task[None] | None = None

    async def places(self) -> int:
        """Give the number; it is asked for anew every few seconds, and nobody waits for that but the first."""
        if self._window is not None:
            return self._window
        if not self._read_s:
            await self._read()
        elif time.monotonic() - self._read_s > FRESH_S and (self._reading is None or self._reading.done()):
            self._reading = asyncio.create_task(self._read())
        return self._places

    async def _read(self) -> None:
        try:
            workers: list[dict[str, Any]] = (await self._client.request("GET", "/v1/workers"))["data"]
        except ServiceError:
            workers = []
        ready = [worker for worker in workers if worker.get("phase") == "ready"]
        places = sum(int(worker.get("places", PLACES)) for worker in ready)
        self._places = max(LEAST, min(MOST, round(AHEAD * places)))
        self._read_s = time.monotonic()


async def pour(items: Iterable[T] | AsyncIterable[T], work: Callable[[T], Awaitable[R]], room: Room) -> AsyncGenerator[R]:
    """Do a piece of work for each item, as many at a time as there is room for, and give what comes of them as it comes.

    Args:
        items: read one by one, as places become free; a slow one holds up nothing that is in flight.
        work: what it raises ends all.
        room: how many at a time.
    """
    source = aiter(items) if isinstance(items, AsyncIterable) else _slowly(items)
    next_one: asyncio.Task[T] | None = None
    running = set[asyncio.Future[R]]()
    more = True
    try:
        while more or running:
            if more and next_one is None and len(running) < await room.places():
                next_one = asyncio.ensure_future(anext(source))
            pending: set[asyncio.Future[Any]] = {*running, *([next_one] if next_one else [])}
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if next_one and next_one in done:
                try:
                    item = next_one.result()
                    running.add(asyncio.ensure_future(work(item)))
                except StopAsyncIteration:
                    more = False
                next_one = None
            for task in [one for one in running if one in done]:
                running.remove(task)
                yield task.result()
    finally:
        left: set[asyncio.Future[Any]] = {*running, *([next_one] if next_one else [])}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)


async def _slowly(items: Iterable[T]) -> AsyncIterator[T]:
    """Read an iterable that may block, in a thread."""
    source, end = iter(items), object()
    while (item := await asyncio.to_thread(next, source, end)) is not end:
        yield cast("T", item)
