"""The workers that live: each says once a second what it is doing."""

from __future__ import annotations

import json
from typing import Any

from shared.store.records import Records


class WorkerRegistry(Records):
    """Keys: ``worker:<name>``, which fades soon after the worker does."""

    scripts = ("announce",)

    async def announce(self, worker: str, facts: dict[str, Any], *, ttl_s: float) -> None:
        """Publish what a worker is doing; the notice fades when the worker does."""
        await self._run("announce", worker, json.dumps(facts), int(ttl_s * 1000))

    async def retire(self, worker: str) -> None:
        """Take a worker's notice down."""
        await self.redis.delete(self._key(f"worker:{worker}"))

    async def workers(self) -> list[dict[str, Any]]:
        """Give the notices of all living workers."""
        keys = [key async for key in self.redis.scan_iter(match=self._key("worker:*"), count=1000)]
        values = await self.redis.mget(keys) if keys else []
        return [json.loads(value) for value in values if value]
