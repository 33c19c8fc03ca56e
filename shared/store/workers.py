"""The workers that live: each says once a second what it is doing."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import structlog

from shared.store.parts import WORKER_INDEXES
from shared.store.records import Records

log = structlog.get_logger()

#: A worker that Redis did not hear for so long has begun anew, by another name.
ORDER_S = 3600.0


class WorkerRegistry(Records):
    """Notices of the workers, and orders to drain.

    Keys: ``worker:<name>`` a worker's notice, which fades soon after the worker does · ``notices`` worker → when that is ·
    ``drain:<name>`` that it is to drain.
    """

    async def heartbeat(self, worker: str, facts: dict[str, Any], *, ttl_s: float) -> bool:
        """Publish what a worker is doing, which fades when the worker does; gives whether it was told to drain."""
        return bool(await self._run("worker_notice", worker, json.dumps(facts), int(ttl_s * 1000)))

    async def drain(self, worker: str) -> bool:
        """Tell a worker to drain; gives whether it lives."""
        return bool(await self._run("drain_worker", worker, int(ORDER_S * 1000)))

    async def retire(self, worker: str) -> None:
        """Remove a worker's heartbeat."""
        async with self.redis.pipeline() as pipe:
            pipe.delete(self._key(f"worker:{worker}"), self._key(f"drain:{worker}"))
            pipe.zrem(self._key("notices"), worker)
            await pipe.execute()

    async def workers(self) -> list[dict[str, Any]]:
        """Give the heartbeats of all living workers, also of earlier versions: gateways may be renewed before workers."""
        indexes = (self.redis.zrange(self._key(name), 0, -1) for name in WORKER_INDEXES)
        names = dict.fromkeys(cast("list[str]", [name for found in await asyncio.gather(*indexes) for name in found]))
        keys = [self._key(f"worker:{name}") for name in names]
        values = await self.redis.mget(keys) if keys else []
        return [facts for key, text in zip(keys, values, strict=True) if text and (facts := _heartbeat(key, str(text)))]


def _heartbeat(key: str, text: str) -> dict[str, Any] | None:
    """Read a heartbeat; None where it is damaged, or of a version that writes others."""
    try:
        facts = json.loads(text)
        if isinstance(facts["name"], str) and isinstance(facts["phase"], str):
            return dict(facts)
    except (LookupError, TypeError, ValueError, RecursionError):
        pass
    log.warning("record.unreadable", record=key)
    return None
