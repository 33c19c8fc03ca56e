"""Why a batch does not go on for the time being, for its owner to read."""

from __future__ import annotations

from typing import Literal

from shared.store.batch_leases import Lease
from shared.store.batches import Batch, Batches

Code = Literal["waiting_for_storage", "waiting_for_quota"]


class Waits:
    """Keeps the reasons of one batch, the oldest of them in its record."""

    def __init__(self, batches: Batches, lease: Lease, batch: Batch) -> None:
        """Go on with what an earlier runner wrote there, which may be over by now."""
        self._batches, self._lease = batches, lease
        self._reasons = {batch.waiting_code: batch.waiting} if batch.waiting else {}

    async def because(self, code: Code, message: str) -> bool:
        """Say that it waits; says whether that is news.

        Raises:
            LeaseLost: the batch is another runner's by now.
        """
        if self._reasons.get(code) == message:
            return False
        self._reasons[code] = message
        await self._write()
        return True

    async def no_longer(self, code: Code) -> bool:
        """Say that it goes on, as far as this is concerned; says whether that is news.

        Raises:
            LeaseLost: the batch is another runner's by now.
        """
        if not self._reasons.pop(code, ""):
            return False
        await self._write()
        return True

    async def _write(self) -> None:
        code, message = next(iter(self._reasons.items()), ("", ""))
        await self._batches.note(self._lease, waiting=message, waiting_code=code)
