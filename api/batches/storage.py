"""What a batch does while its files cannot be read or written: it waits, says why, and goes on by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from api.batches.waits import Waits
from shared.errors import StorageFull, StorageUnavailable

log = structlog.get_logger()
T = TypeVar("T")

#: The pauses before the storage is asked again: a fault that passes costs a second, one that stays two calls a minute.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
#: What storage that is full, read-only or away raises; a file that is gone is no such thing.
AWAY = (StorageFull, StorageUnavailable)


class Storage:
    """Asks a batch's storage again and again while it is away."""

    def __init__(self, waits: Waits) -> None:
        """Say there why the batch waits."""
        self._waits = waits

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call until it works.

        Raises:
            LeaseLost: the batch is another runner's by now.
        """
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                answer = await call()
            except AWAY as error:
                await self._tell(error)
            else:
                await self._tell(None)
                return answer
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _tell(self, error: Exception | None) -> None:
        if not error:
            if await self._waits.no_longer("waiting_for_storage"):
                log.info("batch.goes_on")
            return
        reason = _reason(error)
        message = f"the batch's files cannot be read or written just now: {reason}; it goes on by itself"
        if await self._waits.because("waiting_for_storage", message):
            log.warning("batch.waits", reason=reason, error=str(error.__cause__ or error)[:500])  # which names the folder


def _reason(error: Exception) -> str:
    """Say what is wrong, without paths, which are not the client's business."""
    if isinstance(error, StorageFull):
        return "there is no room for another file"
    cause = error.__cause__ or error
    return (isinstance(cause, OSError) and cause.strerror) or type(cause).__name__
