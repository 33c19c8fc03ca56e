"""The outbox: events whose delivery is due. The script that ends a job writes them; webhook senders take them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from shared.database import Records, reply


@dataclass(frozen=True)
class Delivery:
    """One attempt to hand an event over."""

    event_id: str
    job_id: str
    type: str
    created_at: float
    attempt: int


class Outbox(Records):
    """Keys: ``due`` event → when its next delivery is due (ms by Redis's clock) · ``delivery:<event>``."""

    scripts = ("attempt",)

    async def due(self, limit: int) -> list[str]:
        """Give the ids of events whose delivery is due."""
        seconds, micros = await self.redis.time()
        now_ms = seconds * 1000 + micros // 1000
        return cast("list[str]", await self.redis.zrangebyscore(self._key("due"), "-inf", now_ms, start=0, num=limit))

    async def attempt(self, event_id: str, *, lease_s: float) -> Delivery | None:
        """Take a due delivery; None when another sender has it or it is not due."""
        answer = await self._run("attempt", event_id, int(lease_s * 1000))
        if not answer:
            return None
        job_id, kind, at_ms, attempt = answer
        return Delivery(event_id, job_id, kind, at_ms / 1000, attempt)

    async def delivered(self, delivery: Delivery) -> None:
        """Take an event off the due list: it was handed over, or given up."""
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.zrem(self._key("due"), delivery.event_id)
            pipe.delete(self._key(f"delivery:{delivery.event_id}"))
            await pipe.execute()

    async def postpone(self, delivery: Delivery, delay_s: float) -> None:
        """Set the time of an event's next delivery."""
        seconds, micros = await self.redis.time()
        at_ms = seconds * 1000 + micros // 1000 + int(delay_s * 1000)
        await self.redis.zadd(self._key("due"), {delivery.event_id: at_ms}, xx=True)

    async def webhook_url(self, job_id: str) -> str | None:
        """Read where a job's events go."""
        return cast("str | None", await reply(self.redis.hget(self._key(f"job:{job_id}"), "webhook_url")))
