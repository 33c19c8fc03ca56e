"""How long a batch goes on: until it is cancelled, its completion window ends, or another runner has its lease."""

from __future__ import annotations

import asyncio

from shared.store.batch_leases import Lease, Status
from shared.store.batches import Batches

LOOK_EVERY_S = 1.0  #: for news of the batch; a lease is renewed as often, and in a third of its time at the latest


class Window:
    """A batch's lease, and why it stops before its last line."""

    def __init__(self, batches: Batches, lease: Lease, lease_s: float) -> None:
        """Hold a lease for so long at a time."""
        self._batches, self._lease, self._lease_s = batches, lease, lease_s
        self._until_s = 0.0  #: its end, by the loop's clock
        self.stopping: Status | None = None  #: why no more lines are taken: expired or cancelled

    @property
    def left_s(self) -> int:
        """Whole seconds to its end."""
        return max(0, int(self._until_s - asyncio.get_running_loop().time()))

    async def keep(self) -> None:
        """Renew the lease again and again until cancelled.

        Raises:
            LeaseLost: the batch is another runner's by now.
            RedisError: Redis is away.
        """
        while True:
            await asyncio.sleep(min(LOOK_EVERY_S, self._lease_s / 3))
            await self.renew()

    async def renew(self) -> None:
        """Keep the lease, and hear of the batch's cancellation and the end of its window, by Redis's clock."""
        status, left_s = await self._batches.renew(self._lease, lease_s=self._lease_s)
        self._until_s = asyncio.get_running_loop().time() + left_s
        if self.stopping is None and status == "cancelling":
            self.stopping = "cancelled"
        elif self.stopping is None and left_s <= 0 and status != "finalizing":
            self.stopping = "expired"
