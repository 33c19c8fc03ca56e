"""Plays jobs as they are now: what gateway, worker and webhook sender ask of Redis, without their other work."""

from __future__ import annotations

import asyncio
import sys
import time

from bench.redis_cost.player import HOOK, REQUEST, obey, output_facts
from shared.jobs import JobRequest, JobStatus, Output, Priority, Stage
from shared.queue import DOORBELLS_OF, Doorbell
from shared.settings import Settings
from shared.store.connection import connect, new_id
from shared.store.deliveries import Outcome
from shared.store.jobs import JobStore
from shared.store.outbox import Outbox

MOST = 4  #: deliveries at a time to one receiver, as the sender has it


class Now:
    """See :class:`bench.redis_cost.player.Player`."""

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
            await self._run(ids[i : i + k], Output.model_validate(output_facts(text)))
            while webhook and (n := await self._deliver()):
                if n < MOST or k <= MOST:
                    break

    async def _run(self, ids: list[str], output: Output) -> None:
        await asyncio.gather(*(self.redis.ask("BRPOP", DOORBELLS_OF[Priority.DEFAULT], 1) for _ in ids))
        found = await asyncio.gather(*(self.store.claim(job_id, worker="host:1-w", lease_s=15) for job_id in ids))
        claims = [claim for claim in found if claim]
        for stage in (Stage.DECODING, Stage.GENERATING, Stage.GENERATING):
            await self.store.beat([(claim, stage) for claim in claims], lease_s=15)
        end = JobStatus.SUCCEEDED
        await asyncio.gather(*(self.store.complete(claim, end, output=output, error=None) for claim in claims))

    async def _deliver(self) -> int:
        """Do what a sender does that was rung; gives how many deliveries that were."""
        taken = await self.outbox.take("sender", limit=256, most=MOST, lease_s=30, open_after=5)
        row = {"attempt": 1, "at": round(time.time(), 3), "code": 204, "ms": 12, "error": None, "answer": ""}
        await self.outbox.settle([Outcome(delivery, "delivered", row) for delivery in taken.deliveries])
        return len(taken.deliveries)


async def main() -> None:
    """Play what is asked for."""
    await obey(Now(sys.argv[1]))


if __name__ == "__main__":
    asyncio.run(main())
