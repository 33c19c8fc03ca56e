"""An asynchronous iterator in a thread of its own, for code that blocks, also where a loop runs already, as in a notebook."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar, cast

T = TypeVar("T")
_END = object()


def iterate(make: Callable[[], AsyncIterator[T]], *, ahead: int = 64) -> Iterator[T]:
    """Give what an asynchronous iterator gives; a reader that stops ends it.

    Args:
        make: makes the iterator, in its thread.
        ahead: how many results may wait for their reader.
    """
    results: queue.Queue[object] = queue.Queue()
    room = threading.Semaphore(ahead)
    loop_made: queue.Queue[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = queue.Queue()

    async def run() -> None:
        loop_made.put((asyncio.get_running_loop(), cast("asyncio.Task[None]", asyncio.current_task())))
        async for result in make():
            while not room.acquire(blocking=False):  # noqa: ASYNC110  # the reader is in another thread
                await asyncio.sleep(0.01)
            results.put((result, None))

    def thread() -> None:
        try:
            asyncio.run(run())
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001  # it is raised again where the reader is
            results.put((None, error))
        results.put(_END)

    worker = threading.Thread(target=thread, daemon=True, name="sightline-client")
    worker.start()
    loop, task = loop_made.get()
    try:
        while (item := results.get()) is not _END:
            result, error = cast("tuple[T, BaseException | None]", item)
            if error:
                raise error
            room.release()
            yield result
    finally:
        if worker.is_alive():
            loop.call_soon_threadsafe(task.cancel)
        worker.join()
