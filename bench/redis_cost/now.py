"""Plays jobs as they are now: what gateway, worker and webhook sender ask of Redis, without their other work."""

from __future__ import annotations

import asyncio
import sys
import time

from bench.redis_cost.player import HOOK, REQUEST, obey, output_facts
from shared.jobs import JobRequest, JobStatus, Output, Stage
from shared.settings import Settings
from shared.store.connection import connect
from shared.store.deliveries import Outcome
from shared.store.ids import new_id
from shared.store.jobs import JobStore
from shared.store.outbox import Outbox

WORKER = "host:1-w"
BEAT_S = 1.0  #: between a worker's beats, however many jobs it has
MOST = 4  #: deliveries at a time to one receiver, as the sender has it


class Now:
    """See :class:`bench.redis_cost.player.Player`."""

    def __init__(self, redis_url: str) -> None:
        """Connect."""
        self.settings = Settings(redis_url=redis_url, max_queued=10**6)
        self.redis = connect(self.settings)
        self.store, self.outbox = JobStore(self.redis), Outbox(self.redis)
        self.ids: list[str] = []
        self._beat_at_s = 0.0

    async def live(self, n: int, k: int, *, webhook: bool) -> None:
        """Play n whole jobs."""
        for _ in range(n // k):
            await self.queue(k, webhook=webhook)
            await self.end("chinese", webhook=webhook, k=k)

    async def queue(self, n: int, *, webhook: bool) -> None:
        """Submit n jobs."""
        request = JobRequest.model_validate(REQUEST | (HOOK if webhook else {}))

        async def submit(job_id: str) -> None:
            await self.store.submit(request, self.settings, owner="local", job_id=job_id)

        ids = [new_id("job") for _ in range(n)]
        for i in range(0, n, 64):
            await asyncio.gather(*map(submit, ids[i : i + 64]))
        self.ids += ids

    async def end(self, text: str, *, webhook: bool, k: int = 16) -> None:
        """Run the jobs that were queued."""
        ids, self.ids = self.ids, []
        for i in range(0, len(ids), k):
            await self._run(len(ids[i : i + k]), Output.model_validate(output_facts(text)))
            while webhook and (n := await self._deliver()):
                if n < MOST or k <= MOST:
                    break

    async def _run(self, n: int, output: Output) -> None:
        """Do what a worker does whose places are taken again as soon as they are free: no bell is rung for it."""
        places = {"n_default": n, "n_bulk": n, "lease_s": 15, "token": new_id("ask")}
        claims = (await self.store.claim(WORKER, self.settings.served_model_name, n, **places)).claims
        # A worker writes the stages of 0.1 s together, and a picture is decoded in less: Redis hears of the last one.
        await self.store.set_stages(WORKER, [(claim, Stage.GENERATING) for claim in claims])
        if time.monotonic() - self._beat_at_s > BEAT_S:
            await self.store.beat(WORKER, claims, lease_s=15)
            self._beat_at_s = time.monotonic()
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
