"""Many jobs at once: an owner's that fit a filter, their counts, and groups. By index, a bounded piece at a time.

Keys: ``jobs.<status>:<owner>`` ids of those that ended so → created · ``waiting:<owner>`` those whose delay is not over →
created · ``jobs:<owner> <group>`` those of a group that have not ended, ``jobs.<status>:<owner> <group>`` those that have ·
``group:<owner> <group>`` (hash: ``webhook_url`` and ``_target``, who hears of its end, ``minute``,
``ended`` and ``ended_before`` of that minute and the one before).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from shared.errors import InvalidRequest, NotFound, SightlineError
from shared.jobs import JobStatus
from shared.store.clock import now_s
from shared.store.deliveries import target_of
from shared.store.ids import made_ms
from shared.store.records import Records
from shared.store.tallies import BY_MINUTE, ended_recently
from shared.store.upkeep import error_json

#: Looks of one script, at 20 to 35 us each: Redis answers nobody else meanwhile, so a page is to cost less than 50 ms.
MOST_LOOKS = 1000
#: Jobs that one script cancels, at 50 us each.
PIECE = 100


@dataclass(frozen=True)
class Filter:
    """Which of an owner's jobs; what is left out fits all. Instants are Unix seconds."""

    statuses: frozenset[JobStatus] = frozenset(JobStatus)
    group: str | None = None
    since: float | None = None
    until: float | None = None
    priority: str | None = None
    model: str | None = None
    code: str | None = None
    words: str | None = None
    not_retried: bool = False
    ids: tuple[str, ...] = field(default=())  #: these, where there are any

    @property
    def is_by_index(self) -> bool:
        """Whether no record has to be looked at, so that all that fits can be counted at once."""
        return not (self.priority or self.model or self.code or self.words or self.not_retried or self.ids)

    @property
    def span_ms(self) -> tuple[str | int, str | int]:
        """From when to when, as the scripts take it."""
        since = "" if self.since is None else int(self.since * 1000)
        return since, "" if self.until is None else int(self.until * 1000)


class Page(NamedTuple):
    """Ids that fit, the newest first; ``last`` is where the next page goes on, which may have more of them."""

    ids: list[str]
    last: str
    more: bool


@dataclass(frozen=True)
class Group:
    """What is known of a group."""

    id: str
    counts: dict[str, int]
    per_s: float  #: jobs that ended a second, over the last one to two minutes
    webhook_url: str | None  #: who hears when nothing of it waits or runs

    @property
    def n_open(self) -> int:
        """How many jobs have not ended."""
        return self.counts[JobStatus.QUEUED] + self.counts[JobStatus.RUNNING]


class Selection(Records):
    """Finds, counts and cancels jobs by filter."""

    async def page(self, owner: str, wanted: Filter, *, limit: int, after: str | None = None) -> Page:
        """Give the next ids that fit. A page may have fewer than the limit, or none, and more may fit all the same.

        Args:
            owner: whose jobs.
            wanted: which.
            limit: most ids to give.
            after: ``last`` of the page before, or a job's id.

        Raises:
            InvalidRequest: nothing tells where ``after`` stood.
        """
        place = (after, made_ms(after) or "") if after else ("", "")
        words = (wanted.words or "").encode().lower().decode()  # as Lua does: letters of ASCII
        facts = wanted.priority or "", wanted.model or "", wanted.code or "", words, "1" if wanted.not_retried else ""
        answer = await self._run(
            "select_jobs", owner, wanted.group or "", limit, MOST_LOOKS, *place, *wanted.span_ms, *facts, *wanted.statuses
        )
        if answer is None:
            raise InvalidRequest("after: nothing by that id is in this list", param="after")
        more, last, ids = answer
        return Page(ids, last or (after or ""), bool(more))

    async def pages(self, owner: str, wanted: Filter) -> AsyncIterator[list[str]]:
        """Give all that fit, a piece at a time."""
        page = Page([], "", more=True)
        while page.more:
            page = await self.page(owner, wanted, limit=PIECE, after=page.last or None)
            yield page.ids

    async def count(self, owner: str, wanted: Filter) -> dict[str, int]:
        """Count the jobs of a filter that is by index, by state; its own states do not matter."""
        queued, running, *ended = await self._run("count_jobs", owner, wanted.group or "", *wanted.span_ms)
        counts = {"queued": queued, "running": running} | dict(zip(ended[::2], ended[1::2], strict=True))
        return {status.value: int(counts[status]) for status in JobStatus}

    async def cancel(self, ids: Sequence[str], error: SightlineError) -> int:
        """Cancel jobs, which the caller has found to be its owner's; gives how many had not ended."""
        return int(await self._run("cancel_jobs", error_json(error), *ids)) if ids else 0

    async def note_retry(self, job_id: str, new_id: str) -> None:
        """Write down that a job was tried anew, as another one."""
        await self._run("note_retry", job_id, new_id)

    async def group(self, owner: str, group: str) -> Group:
        """Read a group.

        Raises:
            NotFound: no job that is still kept has it.
        """
        facts = self.redis.ask("HMGET", self._key(f"group:{owner} {group}"), "webhook_url", *BY_MINUTE)
        counts, (url, *seen), at_s = await asyncio.gather(self.count(owner, Filter(group=group)), facts, now_s(self.redis))
        if not any(counts.values()):
            raise NotFound(_NO_GROUP)
        found = Group(group, counts, ended_recently(int(at_s // 60), seen) / (60 + at_s % 60), url)
        if url and not found.n_open:  # the last of it left no word of its end, since its record was lost
            await self._run("watch_group", owner, group, "", "")
        return found

    async def watch_group(self, owner: str, group: str, url: str) -> None:
        """Have an address hear, once, when nothing of a group waits or runs.

        Raises:
            NotFound: no job that is still kept has it.
        """
        if not await self._run("watch_group", owner, group, url, target_of(owner, url)):
            raise NotFound(_NO_GROUP)


_NO_GROUP = "there is no group by that name: jobs have it in `group`, for as long as they are kept"
