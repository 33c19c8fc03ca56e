"""What API keys use, by day and model, and what they have left today.

Keys: ``usage:<owner>:<day>`` (hash) what was used on a day that is over, model → its numbers, see ``USED``.
Those of an owner's last day stand in ``owner:<owner>``, as ``day`` and ``used:<model>``. A day is UTC's by Redis's clock; its
number is counted from 1970.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date, timedelta
from typing import cast

from shared.errors import QuotaExceeded
from shared.store.clock import now_s
from shared.store.lua import USED
from shared.store.records import Records

#: Who calls where no keys are required: everybody who can reach the gateway is the same owner.
LOCAL = "local"
_EPOCH = date(1970, 1, 1)
DAY_S = 24 * 3600


@dataclass(frozen=True)
class Used:
    """What one owner used on one day of one model."""

    key: str  #: the owner: a key's id, or :data:`LOCAL`
    day: date
    model: str
    jobs: int = 0  #: that were created on that day; all else is of those that ended on it
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0
    vision_tokens: int = 0  #: a part of those of prompts
    output_tokens: int = 0


def counts_of(text: str) -> dict[str, int]:
    """Read the numbers of one model as they stand in Redis, in the order of ``USED``; nothing where they are damaged."""
    numbers = text.split(" ")
    is_sound = len(numbers) == len(USED) and all(number.isdecimal() for number in numbers)
    return dict(zip(USED, map(int, numbers), strict=True)) if is_sound else {}


@dataclass(frozen=True)
class Left:
    """What a key has left of its day; None where it has no quota."""

    jobs: int | None
    vision_tokens: int | None
    reset_s: int  #: seconds until the next day begins


class Usage(Records):
    """Reads what the scripts count."""

    async def today(self) -> date:
        """Give the day by Redis's clock."""
        return _EPOCH + timedelta(days=await now_s(self.redis) // DAY_S)

    async def of(self, owner: str, first: date, last: date) -> list[Used]:
        """Give what an owner used, by day and model; both days are included."""
        flat = await self._run("usage", owner, (first - _EPOCH).days, (last - _EPOCH).days)
        days = zip(flat[::2], flat[1::2], strict=True)
        return [used for day, facts in days for used in _by_model(owner, _EPOCH + timedelta(days=day), facts)]

    async def of_all(self, first: date, last: date) -> list[Used]:
        """Give what everybody used, those among them whose keys are revoked by now."""
        revoked, valid = [await self.redis.zrange(self._key(index), 0, -1) for index in ("revoked", "keys")]
        return [used for owner in (LOCAL, *revoked, *valid) for used in await self.of(owner, first, last)]

    async def left(self, owner: str) -> Left:
        """Say what a key has left of its day."""
        jobs, vision_tokens, reset_s = cast("list[int]", await self._run("quotas", owner))
        return Left(None if jobs < 0 else jobs, None if vision_tokens < 0 else vision_tokens, reset_s)


def quota_exceeded(what: str, most: int, left_s: int) -> QuotaExceeded:
    """Make the error of what the scripts refuse."""
    msg = f"this API key has had the {most} {what} of its day; the next begins at midnight, UTC"
    return QuotaExceeded(msg, retry_after_s=left_s)


def as_csv(used: Sequence[Used]) -> str:
    """Write a table for a spreadsheet, its first line the columns' names."""
    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in fields(Used)])
    table.writeheader()
    table.writerows(asdict(one) for one in used)
    return text.getvalue()


def _by_model(owner: str, day: date, facts: list[str]) -> list[Used]:
    by_model: dict[str, dict[str, int]] = {}
    for name, n in zip(facts[::2], facts[1::2], strict=True):
        what, _, model = name.partition(" ")
        if what in USED:
            by_model.setdefault(model, {})[what] = int(n)
    return [Used(owner, day, model, **counts) for model, counts in sorted(by_model.items())]
