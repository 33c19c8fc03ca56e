"""What asyncio lacks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, TypeVar

import structlog

log = structlog.get_logger()

T = TypeVar("T")


async def cancel_all(tasks: AbstractSet[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they are gone: Python 3.11's wait_for, inside the Redis client, can swallow a cancellation."""
    while tasks := {task for task in tasks if not task.done()}:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=0.1)


async def next_moment(every_s: float) -> None:
    """Wait for the next of the moments ``every_s`` apart, the same ones in all processes: a machine has one clock."""
    await asyncio.sleep(every_s - time.monotonic() % every_s)


class Background:
    """Small tasks that nobody waits for; what one of them throws is logged."""

    def __init__(self) -> None:
        """Begin with none."""
        self._tasks = set[asyncio.Task[None]]()  # a loop holds its tasks weakly

    def add(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin one. Whoever waits for it all the same shields it: a clean-up goes on when its caller is cancelled again."""
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_log_failure)
        return task

    async def settle(self, timeout_s: float) -> None:
        """Wait for those that are left, and cancel what takes longer."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout_s)
        await self.cancel()

    async def cancel(self) -> None:
        """Cancel those that are left."""
        await cancel_all(self._tasks)


def _log_failure(done: asyncio.Task[None]) -> None:
    if not done.cancelled() and (error := done.exception()):
        log.error("background.failed", task=done.get_coro().__qualname__, exc_info=error)  # type: ignore[union-attr]


class Chores:
    """Tasks that go on as long as a process does: one that ends is logged, named to whoever asks, and begun again."""

    RESTART_S = 1.0
    TOLD_S = 10.0  #: how long a chore counts as down after its last end

    def __init__(self) -> None:
        """Begin with none."""
        self._tasks = set[asyncio.Task[None]]()
        self._ended_at = dict[str, float]()

    def begin(self, name: str, chore: Callable[[], Coroutine[Any, Any, None]], *, endless: bool = True) -> None:
        """Begin a chore.

        Args:
            name: for the log and for people.
            chore: makes it, each time it is begun.
            endless: it has no reason to return; one that has is not begun again when it does.
        """
        self._tasks.add(asyncio.create_task(self._keep(name, chore, endless=endless)))

    @property
    def down(self) -> list[str]:
        """Name the chores that have ended lately."""
        now = asyncio.get_running_loop().time()
        return [name for name, at in self._ended_at.items() if now - at < self.TOLD_S]

    async def cancel(self) -> None:
        """End them all."""
        await cancel_all(self._tasks)

    async def _keep(self, name: str, chore: Callable[[], Coroutine[Any, Any, None]], *, endless: bool) -> None:
        while True:
            error: BaseException | None = None
            try:
                await chore()
            except asyncio.CancelledError as cancelled:
                if (task := asyncio.current_task()) and task.cancelling():
                    raise
                error = cancelled  # something that it waited for was cancelled, not the chore
            except Exception as failed:  # noqa: BLE001  # whatever it is, it is logged
                error = failed
            if error is None and not endless:
                return
            self._ended_at[name] = asyncio.get_running_loop().time()
            log.error("chore.ended", chore=name, exc_info=error)
            await asyncio.sleep(self.RESTART_S)


class Pulse:
    """Tells whether the loop turns."""

    late_s = 0.0  #: how much later than it should the loop came round, the last time

    async def beat(self) -> None:
        """Look every second, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + 1
            await asyncio.sleep(1)
            self.late_s = loop.time() - due_s


async def gather_all(coroutines: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines side by side; most often there is one, which needs no task.

    When one fails the others are cancelled, and when they have ended its error is raised, as it was.
    """
    if len(coroutines) == 1:
        return [await coroutines[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as errors:
        first = errors.exceptions[0]
    else:
        return [task.result() for task in tasks]
    raise first
