"""The outbox: deliveries that are due, and what became of the others. The scripts that move jobs fill it, senders empty it.

Keys: ``due`` target → when its first delivery is due, or its pause ends · ``due:<target>`` delivery → when it is due · both in
ms by Redis's clock · ``due_of`` owner → how many are due (hash) · ``delivery:<id>`` (hash: state pending, delivered, given_up,
discarded) · ``attempts:<delivery>`` what came of each (list of JSON) · ``deliveries:<job>`` its deliveries by their events'
numbers · ``target:<id>`` failures in a row, since when, paused until when · ``dropping`` targets that are off,
``dropped:<target>`` what was due to them · ``taken:<token>`` what one call took · channel
``deliveries``, something has become due. A target is a registered endpoint's id, or
owner and origin of the addresses that jobs bring; a delivery's id is its event's, for an endpoint with ``:`` and its id.
What was delivered goes with its job, what was not fades after a week.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import structlog

from shared.errors import RecordUnreadable
from shared.store.connection import Records, new_id, reply
from shared.store.notifier import hear

log = structlog.get_logger()

#: Deliveries that one script looks at, so that Redis never stands still for more than 5 ms.
PIECE = 200

Verdict = Literal["delivered", "retry", "given_up", "disabled"]


def target_of(owner: str, url: str) -> str:
    """Name the target of a job's own address: no owner's dead receiver may pause another's on the same host."""
    parts = urlsplit(url)
    return f"{owner} {parts.scheme}://{parts.netloc}"


@dataclass(frozen=True)
class Delivery:
    """One event on its way to one target; ``attempt`` counts from 1."""

    id: str
    attempt: int
    event_id: str
    job_id: str
    type: str
    created_at: float
    endpoint_id: str  #: empty where the job brought the address
    url: str  #: empty where it is the endpoint's
    payload: str
    target: str
    failures: int  #: of this target, in a row
    failing_s: float  #: for how long it has been, by Redis's clock


class Outbox(Records):
    """Due deliveries by target, so that none waits for another's."""

    scripts = ("due", "attempt", "settle", "redeliver", "recover", "drop_some")

    async def hear_of_due(self) -> AsyncGenerator[None]:
        """Tell each time that something has become due, and once at the beginning. Messages can be missed.

        Raises:
            RedisError: the connection is lost; what became due since then was not told.
        """
        async with aclosing(hear(self.redis, self._key("deliveries"))) as messages:
            async for _ in messages:
                yield

    async def due_targets(self, limit: int) -> list[str]:
        """Give the targets that something is due to."""
        return cast("list[str]", await self._run("due", limit))

    async def take(self, target: str, limit: int, *, lease_s: float, open_after: int) -> list[Delivery]:
        """Take due deliveries; nobody else gets them for as long as the lease.

        Args:
            target: where they go.
            limit: most to take.
            lease_s: after this, another sender may take what was not settled.
            open_after: a target that failed so often in a row gets one delivery at a time.
        """
        args = target, limit, int(lease_s * 1000), open_after, new_id("take")
        failures, since_ms, now_ms, taken, aside = await self._run("attempt", *args)
        for ident in aside:
            log.error("record.set_aside", record=ident)
        return [
            Delivery(
                *(delivery_id, int(attempt), event_id, job_id, kind, int(at_ms) / 1000, endpoint_id, url, payload),
                target=target,
                failures=failures,
                failing_s=(now_ms - since_ms) / 1000 if since_ms else 0.0,
            )
            for delivery_id, attempt, event_id, job_id, kind, at_ms, endpoint_id, url, payload in taken
        ]

    async def settle(
        self,
        delivery: Delivery,
        verdict: Verdict,
        *,
        log: dict[str, Any],
        next_s: float = 0.0,
        pause_s: float = 0.0,
        reason: str = "",
    ) -> None:
        """Write down how an attempt went.

        Args:
            delivery: which.
            verdict: what becomes of it.
            log: for the delivery log.
            next_s: when it is tried again, for ``retry``.
            pause_s: for how long nothing goes to this target.
            reason: why the endpoint is disabled, for its owner.
        """
        written = json.dumps(log, ensure_ascii=False)
        times = int(next_s * 1000), int(pause_s * 1000)
        await self._run("settle", delivery.id, delivery.attempt, verdict, *times, written, reason)

    async def of_job(self, job_id: str) -> list[dict[str, Any]]:
        """Give the delivery log of a job, oldest first: every event, where it went, every attempt."""
        ids = cast("list[str]", await self.redis.zrange(self._key(f"deliveries:{job_id}"), 0, -1))
        return [shown for delivery_id in ids if (shown := await self._show(delivery_id))]

    async def _show(self, delivery_id: str) -> dict[str, Any] | None:
        try:
            shown = await self._record(f"delivery:{delivery_id}", partial(_shown, delivery_id))
        except RecordUnreadable:
            return None
        if shown is None:
            return None
        target = shown.pop("target")
        attempts = await reply(self.redis.lrange(self._key(f"attempts:{delivery_id}"), 0, -1))
        due_ms = await self.redis.zscore(self._key(f"due:{target}"), delivery_id)
        if shown["status"] == "pending" and due_ms is None:  # its endpoint is off; that is written down bit by bit
            shown["status"] = "given_up"
        return shown | {
            "next_attempt_at": due_ms / 1000 if due_ms else None,
            "attempts": [json.loads(attempt) for attempt in attempts],
        }

    async def redeliver(self, job_id: str) -> None:
        """Make every delivery of a job due now, those that were taken too; ids stay, endpoints that are off are left out."""
        for delivery_id in await self.redis.zrange(self._key(f"deliveries:{job_id}"), 0, -1):
            await self._run("redeliver", cast("str", delivery_id))

    async def recover(self, endpoint_id: str, *, since: float) -> int:
        """Make due what an endpoint was not handed since an instant, Unix seconds; at most a week back.

        Returns:
            How many deliveries that are.
        """
        n_due, place = 0, f"{int(since * 1000)}-0"
        while place:
            n, place = await self._run("recover", endpoint_id, place, PIECE)
            n_due += n
        return n_due

    async def drop_some(self) -> bool:
        """Give up a few deliveries of endpoints that are off; False where none are left."""
        return bool(await self._run("drop_some", PIECE))


def _shown(delivery_id: str, record: dict[str, str]) -> dict[str, Any]:
    return {
        "object": "delivery",
        "id": delivery_id,
        "event_id": record["event"],
        "event_type": record["type"],
        "webhook_endpoint_id": record.get("endpoint"),
        "url": record.get("url"),
        "status": record["state"],
        "reason": record.get("reason"),
        "target": record["target"],
    }
