"""The outbox: deliveries that are due, and what became of the others. The scripts that move jobs fill it, senders empty it.

Keys: ``due`` target → when its first delivery is due, or its pause ends · ``due:<target>`` delivery → when it is due, or when
its lease ends · both in ms by Redis's clock · ``due_of`` owner → how many are due (hash) · ``delivery:<id>`` (hash: ``state``
pending, delivered, given_up, discarded; ``token`` of the call that took it; ``log``, a row for each attempt) ·
``target:<id>`` failures in a row, since when, paused until when · ``dropping`` targets that are off, ``dropped:<target>`` what
was due to them · ``took:<sender>`` what its last call took · ``senders`` who is at work → for how long that counts · channel
``deliveries``, something has become due. A target is a registered endpoint's id, or owner and origin of the addresses that jobs
bring; a delivery's id is its event's, for an endpoint with ``:`` and its id. A job's record names its deliveries, but for that
of its end to its own address. What was delivered goes with its job, what was not fades a week after it was given up.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal
from urllib.parse import urlsplit

import structlog

from shared.errors import RecordUnreadable
from shared.store.connection import Records, new_id
from shared.store.notifier import hear

log = structlog.get_logger()

#: Deliveries that one script looks at, so that Redis never stands still for more than 5 ms.
PIECE = 200
#: What a row of a delivery's log tells, and what goes without saying.
LOGGED: dict[str, Any] = {"attempt": None, "at": None, "code": None, "ms": None, "error": None, "answer": ""}

Verdict = Literal["delivered", "retry", "given_up", "disabled"]


def target_of(owner: str, url: str) -> str:
    """Name the target of a job's own address: no owner's dead receiver may pause another's on the same host."""
    parts = urlsplit(url)
    return f"{owner} {parts.scheme}://{parts.netloc}"


@dataclass(frozen=True)
class Delivery:
    """One event on its way to one target; ``attempt`` counts from 1."""

    id: str
    token: str  #: of the call that took it; whatever is written of it must show this
    attempt: int
    target: str
    job_id: str
    type: str
    created_at: float
    url: str  #: empty where it is the endpoint's
    payload: str
    failures: int  #: of this target, in a row
    failing_s: float  #: for how long it has been, by Redis's clock

    @property
    def event_id(self) -> str:
        """The same for everybody who is told of it."""
        return self.id.partition(":")[0]

    @property
    def endpoint_id(self) -> str:
        """Empty where the job brought the address."""
        return self.id.partition(":")[2]


@dataclass(frozen=True)
class Taken:
    """What a sender took, at ``now_s`` by Redis's clock; ``left``: there is more for it as soon as it has room."""

    now_s: float
    deliveries: list[Delivery]
    left: bool


@dataclass(frozen=True)
class Outcome:
    """How an attempt went: what becomes of its delivery, and a row for its log."""

    delivery: Delivery
    verdict: Verdict
    log: Mapping[str, Any]
    next_s: float = 0.0  #: when it is tried again, for ``retry``
    pause_s: float = 0.0  #: for how long nothing goes to this target
    reason: str = ""  #: why the endpoint is disabled, for its owner


class Outbox(Records):
    """Due deliveries by target, so that none waits for another's."""

    scripts = ("take", "settle", "redeliver", "recover", "drop_some", "attend")

    async def hear_of_due(self) -> AsyncGenerator[None]:
        """Tell each time that something has become due, and once at the beginning. Messages can be missed.

        Raises:
            RedisError: the connection is lost; what became due since then was not told.
        """
        async with aclosing(hear(self.redis, self._key("deliveries"))) as messages:
            async for _ in messages:
                yield

    async def attend(self, sender: str, *, ttl_s: float) -> None:
        """Say that a sender is at work, and for how long this counts."""
        await self._run("attend", sender, int(ttl_s * 1000))

    async def leave(self, sender: str) -> None:
        """Say that a sender is at work no more."""
        await self.redis.ask("ZREM", self._key("senders"), sender)

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
        now_ms, left, aside, taken = await self._run("take", *args)
        for ident in aside:
            log.error("record.set_aside", record=ident)
        return Taken(now_ms / 1000, [_delivery(token, now_ms, facts) for facts in taken], bool(left))

    async def settle(self, outcomes: Sequence[Outcome]) -> list[bool]:
        """Write down how attempts went. A repeated call writes nothing twice.

        Returns:
            For each, in order, whether it was written: not where its lease had ended and another sender has it, or it is to be
            delivered anew.
        """
        flat = [part for outcome in outcomes for part in _flat(outcome)]
        return [bool(answer) for answer in await self._run("settle", *flat)]

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
            read = await self._record(f"delivery:{delivery_id}", partial(_shown, delivery_id))
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
            n, place = await self._run("recover", endpoint_id, place, PIECE)
            n_due += n
        return n_due

    async def drop_some(self) -> bool:
        """Give up a few deliveries of endpoints that are off; False where none are left."""
        return bool(await self._run("drop_some", PIECE))


def _delivery(token: str, now_ms: int, facts: list[Any]) -> Delivery:
    """Make a delivery of what the script gives."""
    delivery_id, attempt, target, job, kind, at_ms, url, payload, failures, since_ms = facts
    job_id = job or "job_" + delivery_id.removeprefix("evt_").partition(":")[0].partition("_")[0]
    failing_s = (now_ms - since_ms) / 1000 if since_ms else 0.0
    return Delivery(
        *(delivery_id, token, attempt, target, job_id, kind, at_ms / 1000, url, payload), failures=failures, failing_s=failing_s
    )


def _flat(outcome: Outcome) -> tuple[str | int, ...]:
    """Lay an outcome out for the script."""
    delivery = outcome.delivery
    times = int(outcome.next_s * 1000), int(outcome.pause_s * 1000)
    return delivery.id, delivery.token, outcome.verdict, *times, _row(outcome.log), outcome.reason, delivery.failures


def _row(attempt: Mapping[str, Any]) -> str:
    """Write an attempt down in one line; what goes without saying is left out at its end."""
    row = [attempt.get(name, usual) for name, usual in LOGGED.items()]
    usual = list(LOGGED.values())
    while row and row[-1] == usual[len(row) - 1]:
        row.pop()
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"))


def _attempt(row: str) -> dict[str, Any]:
    return LOGGED | dict(zip(LOGGED, json.loads(row), strict=False))


def _shown(delivery_id: str, record: dict[str, str]) -> tuple[int, str, dict[str, Any]]:
    event_id, _, endpoint_id = delivery_id.partition(":")
    shown = {
        "object": "delivery",
        "id": delivery_id,
        "event_id": event_id,
        "event_type": record["type"],
        "webhook_endpoint_id": endpoint_id or None,
        "url": record.get("url"),
        "status": record["state"],
        "reason": record.get("reason"),
        "attempts": [_attempt(row) for row in record.get("log", "").split("\n") if row],
    }
    return int(record["at_ms"]), record["target"], shown
