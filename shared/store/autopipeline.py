"""Calls that travel together: those that come while others are under way go in the next round trip, all at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from shared.aio import cancel_all

Call = TypeVar("Call")


class AutoPipeline(Generic[Call]):
    """Gathers calls whose cost is the trip. A lone call leaves at once; under load each waits for one trip at most."""

    def __init__(self, travel: Callable[[list[Call]], Awaitable[Sequence[Any]]]) -> None:
        """Send calls this way.

        Args:
            travel: makes the calls of a list, and gives for each, in order, its answer or the exception that it ends with;
                what it raises itself, every call of the list ends with.
        """
        self._travel = travel
        self._waiting: list[tuple[Call, asyncio.Future[Any]]] = []
        self._driving: asyncio.Task[None] | None = None

    async def send(self, call: Call) -> Any:
        """Make a call. A caller that is cancelled does not stop the call, which may have left."""
        answered = asyncio.get_running_loop().create_future()
        self._waiting.append((call, answered))
        if self._driving is None:
            self._driving = asyncio.create_task(self._drive())
        return await answered

    async def settle(self, timeout_s: float) -> None:
        """Wait until no call is under way; those that are then still are dropped."""
        if driving := self._driving:
            await asyncio.wait({driving}, timeout=timeout_s)
            await cancel_all({driving})

    async def _drive(self) -> None:
        try:
            while self._waiting:
                leaving, self._waiting = self._waiting, []
                await self._deliver(leaving)
        finally:
            self._driving = None

    async def _deliver(self, leaving: list[tuple[Call, asyncio.Future[Any]]]) -> None:
        answers: Sequence[Any]
        try:
            answers = await self._travel([call for call, _ in leaving])
        except asyncio.CancelledError:
            for _, answered in leaving + self._waiting:
                answered.cancel()
            raise
        except Exception as error:  # noqa: BLE001  # whoever called gets it
            answers = [error] * len(leaving)
        for (_, answered), answer in zip(leaving, answers, strict=True):
            if answered.done():
                continue
            if isinstance(answer, Exception):
                answered.set_exception(answer)
            else:
                answered.set_result(answer)
