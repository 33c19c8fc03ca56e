"""What asyncio lacks."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, TypeVar

T = TypeVar("T")


async def cancel_all(tasks: AbstractSet[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they are gone: Python 3.11's wait_for, inside the Redis client, can swallow a cancellation."""
    while tasks := {task for task in tasks if not task.done()}:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=0.1)


class Background:
    """Small tasks that nobody waits for; what one of them throws is dropped."""

    def __init__(self) -> None:
        """Begin with none."""
        self._tasks = set[asyncio.Task[None]]()  # a loop holds its tasks weakly

    def add(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Begin one."""
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def cancel(self) -> None:
        """Cancel those that are left."""
        await cancel_all(self._tasks)


async def gather_all(coroutines: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines side by side; a lone one, which most are, needs no task of its own."""
    if len(coroutines) == 1:
        return [await coroutines[0]]
    return await asyncio.gather(*coroutines)
