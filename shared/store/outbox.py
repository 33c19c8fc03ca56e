"""The outbox: deliveries that are due, and what became of the others. The scripts that move jobs fill it, senders empty it.

Keys: ``due`` target → when its first delivery is due, or its pause ends · ``due:<target>`` delivery → when it is due, or when
its lease ends · both in ms by Redis's clock · ``due_of`` owner → how many are due (hash) · ``delivery:<id>`` (hash: ``state``
pending, delivered, given_up, discarded; ``token`` of the call that took it; ``log``, a row for each attempt) ·
``target:<id>`` failures in a row, since when, paused until when · ``dropping`` targets that are off, ``dropped:<target>`` what
was due to them · ``took:<sender>`` what its last call took · channel
``deliveries``, something has become due. A target is a registered endpoint's id, or owner and origin of the addresses that jobs
bring; a delivery's id is its event's, for an endpoint with ``:`` and its id. A job's record names its deliveries, but for that
of its end to its own address. What was delivered goes with its job, what was not fades a week after it was given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, cast

import structlog
from redis.exceptions import ResponseError

from shared.errors import RecordUnreadable
from shared.store.deliveries import Outcome, Taken, delivery_of, flat, shown_of
from shared.store.ids import new_id
from shared.store.notifier import hear
from shared.store.records import Records

log = structlog.get_logger()

#: Deliveries that one script looks at, so that Redis never stands still for more than 5 ms.
PIECE = 100


class Outbox(Records):
    """Due deliveries by target, so that none waits for another's."""

    async def hear_of_due(self) -> AsyncGenerator[None]:
        """Tell each time that something has become due, and once at the beginning. Messages can be missed.

        Raises:
            RedisError: the connection is lost; what became due since then was not heard.
        """
        async with aclosing(hear(self.redis, self._key("deliveries"))) as messages:
            async for _ in messages:
                yield

    async def mind_clock(self) -> None:
        """See to it that nothing waits for a clock that was set back; somebody must look each second or so."""
        await self._run("mind_clock")

    async def take(
        self, sender: str, *, limit: int, most: int, lease_s: float, open_after: int, under_way: Mapping[str, int] | None = None
    ) -> Taken:
        """Take due deliveries; nobody else gets them for as long as the lease.

        Args:
            sender: who takes them; one call at a time.
            limit: most to take.
            most: to one target, with those under way.
            lease_s: after this, another sender may take what was not settled.
            open_after: a target that failed so often in a row gets one delivery at a time.
            under_way: targets to which this sender has deliveries under way, and how many.
        """
        token = new_id("take")[-16:]  # short, since it stands in each delivery
        busy = [part for pair in (under_way or {}).items() for part in pair]
        args = sender, token, limit, most, int(lease_s * 1000), open_after, *busy
        now_ms, left, aside, taken = await self._run("take_deliveries", *args)
        for ident in aside:
            log.error("record.set_aside", record=ident)
        records = await asyncio.gather(*(self._told_of(job_id, kind) for _, _, _, job_id, kind, *_ in taken))
        deliveries = [delivery_of(token, now_ms, facts, record) for facts, record in zip(taken, records, strict=True)]
        return Taken(now_ms / 1000, deliveries, bool(left))

    async def _told_of(self, ident: str, kind: str) -> dict[str, str]:
        """Read the record of a job or batch; nothing, where it is gone or none. In the script it would cost a multiple."""
        name = f"batch:{ident}" if kind.startswith("batch.") else f"job:{ident}"
        try:
            return cast("dict[str, str]", await self.redis.ask("HGETALL", self._key(name)))
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            return {}

    async def settle(self, outcomes: Sequence[Outcome]) -> list[bool]:
        """Write down how attempts went. A repeated call writes nothing twice.

        Returns:
            For each, in order, whether it was written: not where its lease had ended and another sender has it, or it is to be
            delivered anew.
        """
        parts = [part for outcome in outcomes for part in flat(outcome)]
        return [bool(answer) for answer in await self._run("settle_deliveries", *parts)]

    async def of_job(self, job_id: str) -> list[dict[str, Any]]:
        """Give the delivery log of a job, oldest first: every event, where it went, every attempt."""
        found = [shown for delivery_id in await self._ids(job_id) if (shown := await self._show(delivery_id))]
        found.sort(key=lambda read: (read[0], read[1]["event_type"] != "job.running"))  # both may be of one ms
        return [shown for _, shown in found]

    async def _ids(self, job_id: str) -> list[str]:
        noted = await self.redis.ask("HGET", self._key(f"job:{job_id}"), "deliveries")
        return [f"evt_{job_id.removeprefix('job_')}", *(noted or "").split()]

    async def _show(self, delivery_id: str) -> tuple[int, dict[str, Any]] | None:
        """Give when its event was, and what is shown of it."""
        try:
            read = await self._record(f"delivery:{delivery_id}", partial(shown_of, delivery_id))
        except RecordUnreadable:
            return None
        if read is None:
            return None
        at_ms, target, shown = read
        due_ms = await self.redis.zscore(self._key(f"due:{target}"), delivery_id)
        if shown["status"] == "pending" and due_ms is None:  # its endpoint is off; that is written down bit by bit
            shown["status"] = "given_up"
        return at_ms, shown | {"next_attempt_at": due_ms / 1000 if due_ms else None}

    async def redeliver(self, job_id: str) -> None:
        """Make every delivery of a job due now, those that were taken too; ids stay, endpoints that are off are left out."""
        for delivery_id in await self._ids(job_id):
            await self._run("redeliver", delivery_id)

    async def recover(self, endpoint_id: str, *, since: float) -> int:
        """Make due what an endpoint was not handed since an instant, Unix seconds; at most a week back.

        Returns:
            How many deliveries that are.
        """
        n_due, place = 0, f"{int(since * 1000)}-0"
        while place:
            n, place = await self._run("recover_deliveries", endpoint_id, place, PIECE)
            n_due += n
        return n_due

    async def discard_some(self) -> bool:
        """Give up a few deliveries of endpoints that are off; False where none are left."""
        return bool(await self._run("discard_deliveries", PIECE))
