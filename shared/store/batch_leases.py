"""The runners' side of batches: who runs one, under a lease, and how it takes lines, keeps results and moves on.

The keys stand in :mod:`shared.store.batches`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

from shared.settings import Settings
from shared.store.connection import reply
from shared.store.ids import new_id
from shared.store.records import Records, flat
from shared.store.usage import quota_exceeded

KEEP_S = 7 * 24 * 3600  #: a batch can be read for so long after it ended
Kind = Literal["output", "error"]
Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
Taken = Literal["taken", "full", "stop"]
FREE_LIMIT = 500  #: batches that a runner looks at, to find one to run


class LeaseLost(Exception):
    """The batch is another runner's by now, or nobody's: this one stops at once, and its lines in flight are the next one's."""


class Lease(NamedTuple):
    """The right to run a batch, as long as it is renewed."""

    batch_id: str
    token: str


@dataclass(frozen=True)
class Line:
    """Where a line stands in the input, and what its result needs of it. Numbers count from 1."""

    number: int
    offset: int
    n_bytes: int
    custom_id: str = ""
    model: str = ""


class BatchLeases(Records):
    """What a runner may do; every call with a lease raises LeaseLost where it has ended or is another's."""

    async def free(self) -> list[tuple[str, str]]:
        """Give the batches that nobody runs now, and their owners; the most urgent first."""
        found = cast("list[str]", await self._run("batch_free", FREE_LIMIT))
        return list(zip(found[::2], found[1::2], strict=True))

    async def lease(self, batch_id: str, *, lease_s: float) -> Lease | None:
        """Become the one who runs a batch, if nobody does."""
        lease = Lease(batch_id, new_id("lease"))
        return lease if await self._run("batch_lease", *lease, _ms(lease_s)) else None

    async def renew(self, lease: Lease, *, lease_s: float) -> tuple[Status, float]:
        """Go on running it; gives its status, and the seconds until its window ends."""
        status, left_ms = await self._held("batch_renew", lease, _ms(lease_s))
        return cast("Status", status), left_ms / 1000

    async def leave(self, lease: Lease, *, pause_s: float = 0.0) -> None:
        """Let another one run it, after a pause."""
        await self._held("batch_leave", lease, _ms(pause_s))

    async def note(self, lease: Lease, **facts: str | int) -> None:
        """Set fields of its record."""
        await self._held("batch_note", lease, *flat(facts))

    async def move(self, lease: Lease, status: Status, **facts: str) -> Status:
        """Set its status, and the time of it; an end goes to its owner's endpoints, and ends the lease.

        Returns:
            The status from now on: one being cancelled stays so until it has ended.
        """
        return cast("Status", await self._held("batch_move", lease, status, KEEP_S, *flat(facts)))

    async def take(self, lease: Lease, line: Line, job_id: str, settings: Settings) -> Taken:
        """Take the next line: it is in flight from now on, and its job has a place in the key's limit.

        Args:
            lease: the right to do so.
            line: which.
            job_id: of its job.
            settings: how many jobs may wait, and which share of that, and of the key's own limit, stays free.

        Returns:
            ``full`` where its job would find no room now; ``stop`` where no more lines are taken.

        Raises:
            QuotaExceeded: its key may do no more today.
        """
        place = json.dumps([line.offset, line.n_bytes, line.custom_id, line.model])
        args = line.number, line.offset + line.n_bytes, place, job_id, settings.max_queued, settings.chat_reserve
        taken = await self._held("batch_take", lease, *args)
        if isinstance(taken, list):
            raise quota_exceeded(*taken)
        return cast("Taken", taken)

    async def has_room(self, settings: Settings) -> bool:
        """Say whether the service would take a batch's job now."""
        return int(await self._run("batch_room", settings.max_queued, settings.chat_reserve)) > 0

    async def flight(self, batch_id: str) -> list[Line]:
        """Give the lines in flight, in the order of the input."""
        places = await reply(self.redis.hgetall(self._key(f"batch:{batch_id}:flight")))
        return sorted((Line(int(number), *json.loads(place)) for number, place in places.items()), key=lambda line: line.number)

    async def finish(self, lease: Lease, line: Line, job_id: str, kind: Kind, result: dict[str, Any], *, count: str) -> int:
        """Keep a line's result; a repeated call changes nothing. Gives how many results are in no part of a file yet."""
        text = json.dumps(result, ensure_ascii=False)
        return int(await self._held("batch_done", lease, line.number, job_id, kind, text, count))

    async def pending(self, batch_id: str, kind: Kind, limit: int) -> tuple[list[str], int]:
        """Give finished lines that are in no part yet, the oldest first, and how many parts there are."""
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.lrange(self._key(f"batch:{batch_id}:{kind}"), 0, limit - 1)
            pipe.llen(self._key(f"batch:{batch_id}:{kind}_parts"))
            lines, n_parts = await pipe.execute()
        return lines, n_parts

    async def flushed(self, lease: Lease, kind: Kind, *, n_parts: int, part: str, n_lines: int) -> bool:
        """Name the part that holds the oldest lines now, and forget these; False where there are other parts than before."""
        return bool(await self._held("batch_flush", lease, kind, n_parts, part, n_lines))

    async def parts(self, batch_id: str, kind: Kind) -> list[str]:
        """Name the parts of a file."""
        return cast("list[str]", await reply(self.redis.lrange(self._key(f"batch:{batch_id}:{kind}_parts"), 0, -1)))

    async def _held(self, script: str, lease: Lease, *args: str | float) -> Any:
        answer = await self._run(script, *lease, *args)
        if answer is None:
            raise LeaseLost(lease.batch_id)
        return answer


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
