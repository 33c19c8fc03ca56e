"""Plays jobs as they were at commit 307850c. It runs with that tree as its path, and is the only part that knows it."""

from __future__ import annotations

import asyncio
import sys

from player import HOOK, REQUEST, obey, output_facts
from shared.database import connect, new_id
from shared.outbox import Outbox
from shared.queue import DOORBELLS_OF, Doorbell

from shared.jobs import JobRequest, JobStatus, Output, Stage
from shared.settings import Settings
from shared.store import JobStore

MOST = 4  #: deliveries at a time to one receiver


class Before:
    """See :class:`player.Player`."""

    def __init__(self, redis_url: str) -> None:
        """Connect."""
        self.settings = Settings(redis_url=redis_url, max_queued=10**6)
        self.redis = connect(self.settings)
        self.store, self.outbox = JobStore(self.redis), Outbox(self.redis)
        self.bell = Doorbell(self.settings, self.redis)
        self.ids: list[str] = []

    async def live(self, n: int, k: int, *, webhook: bool) -> None:
        """Play n whole jobs."""
        for _ in range(n // k):
            await self.queue(k, webhook=webhook)
            await self.end("chinese", webhook=webhook, k=k)

    async def queue(self, n: int, *, webhook: bool) -> None:
        """Submit n jobs."""
        request = JobRequest.model_validate(REQUEST | (HOOK if webhook else {}))

        async def submit(job_id: str) -> None:
            doorbell = self.bell.job_message(job_id)
            await self.store.submit(request, self.settings, owner="local", job_id=job_id, doorbell=doorbell)

        ids = [new_id("job") for _ in range(n)]
        for i in range(0, n, 64):
            await asyncio.gather(*map(submit, ids[i : i + 64]))
        self.ids += ids

    async def end(self, text: str, *, webhook: bool, k: int = 16) -> None:
        """Run the jobs that were queued."""
        ids, self.ids = self.ids, []
        for i in range(0, len(ids), k):
            await self._run(ids[i : i + k], Output.model_validate(output_facts(text)), webhook=webhook)

    async def _run(self, ids: list[str], output: Output, *, webhook: bool) -> None:
        bells = next(iter(name for priority, name in DOORBELLS_OF.items() if priority == "default"))
        await asyncio.gather(*(self.redis.ask("BRPOP", bells, 1) for _ in ids))
        claims = [c for c in await asyncio.gather(*(self.store.claim(i, worker="host:1-w", lease_s=15) for i in ids)) if c]
        for stage in (Stage.DECODING, Stage.GENERATING, Stage.GENERATING):
            await self.store.beat([(claim, stage) for claim in claims], lease_s=15)
        end = JobStatus.SUCCEEDED
        await asyncio.gather(*(self.store.complete(claim, end, output=output, error=None) for claim in claims))
        while webhook:
            taken = [
                delivery
                for target in await self.outbox.due_targets(1000)
                for delivery in await self.outbox.take(target, MOST, lease_s=30, open_after=5)
            ]
            if not taken:
                break
            await asyncio.gather(*(self.store.get(delivery.job_id) for delivery in taken))
            row = {"attempt": 1, "at": 1764236412.125, "code": 204, "ms": 12, "error": None, "answer": ""}
            await asyncio.gather(*(self.outbox.settle(delivery, "delivered", log=row) for delivery in taken))
            if len(taken) < MOST or len(ids) <= MOST:
                break


async def main() -> None:
    """Play what is asked for."""
    await obey(Before(sys.argv[1]))


if __name__ == "__main__":
    asyncio.run(main())
