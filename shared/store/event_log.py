"""The log of what happened to each job. The scripts that move a job write it, so what a reader sees is what happened.

In the record: ``hist`` what happened, each as its number, a letter, ms since the job was created, and of a start ``:`` and its
attempt · ``events`` the last number given out · ``watched`` · ``said`` how many bytes of the text are in the stream. Keys:
``events:<job>`` pieces of a watched job's text (stream, ids are numbers of the same count; capped; expires with the record) ·
``feed:<owner>`` state events of all jobs of an owner, and the ends of batches (stream; capped; expires a week after the last;
written only while ``owner:<owner>`` has ``endpoints`` or its ``feed_until_ms`` is to come) · channel ``news``, a watched job or
``feed:<owner>``.

Types: ``job.queued``, ``job.running``, ``job.stage``, ``job.delta`` a piece of text, ``job.reset`` the text so far is void
and starts again, ``job.succeeded``, ``job.failed``, ``job.cancelled``, and ``history_truncated`` where the cap took events
away. The joined deltas since the last reset are the output's text, to the letter. ``after_ms`` tells when a state or stage
began, in milliseconds since the job was created.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, cast

from shared.errors import Gone, NotFound
from shared.jobs import JobStatus, Stage
from shared.store.claims import Claim
from shared.store.connection import NEWS, Client
from shared.store.jobs import JobStore
from shared.store.notifier import Look
from shared.store.records import Records

PAGE = 200  #: events read at a time
REOPEN_S = 24 * 3600.0  #: a reader renews its feed this often; each renewal lasts a month
FINALS = frozenset({"job.succeeded", "job.failed", "job.cancelled"})


@dataclass(frozen=True)
class Entry:
    """One event. ``id`` orders a job's events; a reader that left goes on after it. ``data`` of a final one is the job."""

    id: str
    type: str
    data: dict[str, Any]

    @property
    def is_final(self) -> bool:
        """Whether nothing comes after it."""
        return self.type in FINALS


class EventLog(Records):
    """Writes a job's text and reads its events; everything else in the log is written by the job's own scripts."""

    def __init__(self, redis: Client) -> None:
        """Use an open client; all readers that wait share one of its connections."""
        super().__init__(redis)
        self._jobs = JobStore(redis)

    # --- the worker's side ---

    async def watch(self, job_id: str) -> None:
        """Ask for a job's text while it is generated; asked later, all of it comes as one delta before the end."""
        await self._run("watch_job", job_id)

    async def is_watched(self, job_id: str) -> bool:
        """Say whether somebody wants the text while it is generated."""
        return bool(await self.redis.ask("HEXISTS", self._key(f"job:{job_id}"), "watched"))

    async def append_deltas(self, texts: Sequence[tuple[Claim, int, str]]) -> list[bool]:
        """Add pieces of text, for many jobs at once. A repeated call adds nothing twice.

        Args:
            texts: for each job its claim, where in its text the piece begins (in bytes of UTF-8), and the piece.

        Returns:
            For each, in order, whether the claim still held.
        """
        flat = [part for claim, offset, text in texts for part in (claim.job_id, claim.fence, offset, text)]
        return [bool(answer) for answer in await self._run("write_text", *flat)]

    # --- the reader's side ---

    async def follow(self, job_id: str, *, after: str | None = None) -> AsyncGenerator[Entry]:
        """Give a job's events from the first on, then as they happen, up to its end.

        Args:
            job_id: whose; the caller has checked that it may be read.
            after: id of the last event that the reader has; left out, it has none.
        """
        last, newest = int(after or 0), ("HGET", self._key(f"job:{job_id}"), "events")
        with self.redis.notifier.about(self._key(NEWS), job_id, newest) as news:
            while True:
                news.clear()
                page = await self._page_of(job_id, last)
                if page is None or (page.is_final and last == page.newest):
                    return
                if last > page.newest:  # a Redis that restarted has forgotten what this reader has read
                    yield Entry("0", "job.reset", {"id": job_id})
                    last = 0
                    continue
                for number, kind, fields in page.events:
                    if number > last + 1:
                        yield Entry(str(number - 1), "history_truncated", {"id": job_id})
                    yield Entry(str(number), kind, {"id": job_id, **fields})
                    last = number
                if page.is_whole and page.is_final:
                    async for entry in self._end(job_id, page, last):
                        yield entry
                    return
                if page.is_whole:
                    await news.wait()

    async def follow_owner(self, owner: str, *, after: str | None = None) -> AsyncGenerator[Entry]:
        """Give the states that all jobs of an owner reach, without end; first ``feed.opened``, to go on after.

        Args:
            owner: whose jobs.
            after: id of the last event that the reader has; left out, it hears only what happens from now on.
        """
        feed, was_written = self._key(f"feed:{owner}"), await self._run("open_feed", owner)
        newest = await self.redis.ask(*_newest_of(feed))
        last = after or (newest[0][0] if newest else "0-0")
        yield Entry(last, "feed.opened", {})
        oldest = await self.redis.ask("XRANGE", feed, "-", "+", "COUNT", 1)
        if after and (not was_written or (oldest and _order(oldest[0][0]) > _order(after))):
            yield Entry(last, "history_truncated", {})
        loop = asyncio.get_running_loop()
        reopen_at_s = loop.time() + REOPEN_S
        with self.redis.notifier.about(self._key(NEWS), f"feed:{owner}", _newest_of(feed)) as news:
            while True:
                news.clear()
                page = await self._page(feed, last)
                for last, fields in page:  # each moves the reader on
                    yield Entry(last, fields["type"], {"id": fields["job"], "sequence": int(fields["n"])})
                if loop.time() >= reopen_at_s:
                    await self._run("open_feed", owner)
                    reopen_at_s = loop.time() + REOPEN_S
                if len(page) < PAGE:
                    await news.wait()

    async def _page(self, key: str, last: str) -> list[tuple[str, dict[str, str]]]:
        answer = await self.redis.ask("XREAD", "COUNT", PAGE, "STREAMS", key, last)
        return [event for _, page in cast("list[Any]", answer) for event in page]

    async def _page_of(self, job_id: str, last: int) -> _Page | None:
        """Read what happened to a job after an event, in order; None where the job is gone.

        The record is read before the stream, in the same trip: every event that it counts is written by then, so a missing
        number was trimmed by the cap.
        """
        read = self.redis.ask("HMGET", self._key(f"job:{job_id}"), "events", "hist", "said", "status")
        pieces = self.redis.ask("XRANGE", self._key(f"events:{job_id}"), f"({last}-0", "+", "COUNT", PAGE)
        (count, hist, said, status), texts = await asyncio.gather(read, pieces)
        if status is None:
            return None
        newest = int(count or 0)
        texts = [(_number(event_id), "job.delta", fields) for event_id, fields in texts]
        is_whole = len(texts) < PAGE or texts[-1][0] >= newest
        until = newest if is_whole else texts[-1][0]
        events = [event for event in (*_history(hist or ""), *texts) if last < event[0] <= until]
        return _Page(sorted(events, key=itemgetter(0)), newest, JobStatus(status), int(said or 0), is_whole=is_whole)

    async def _end(self, job_id: str, page: _Page, last: int) -> AsyncIterator[Entry]:
        """Give the rest of the text, as far as it is not in the log, and the end."""
        try:
            job = await self._jobs.get(job_id)
        except (NotFound, Gone):  # its retention is over at this very moment
            return
        if last < page.newest - 2:
            yield Entry(str(page.newest - 2), "history_truncated", {"id": job_id})
        rest = job.output.text.encode()[page.said :].decode() if job.output else ""
        if rest and last < page.newest - 1:
            yield Entry(str(page.newest - 1), "job.delta", {"id": job_id, "text": rest})
        yield Entry(str(page.newest), f"job.{page.status}", job.model_dump(mode="json"))


Event = tuple[int, str, dict[str, Any]]


@dataclass(frozen=True)
class _Page:
    """What happened to a job after an event; its end is not among the events."""

    events: list[Event]
    newest: int  #: the last number given out
    status: JobStatus
    said: int
    is_whole: bool  #: up to the newest

    @property
    def is_final(self) -> bool:
        return self.status.is_final


def _history(hist: str) -> Iterator[Event]:
    """Read the history in a job's record; what is not as the scripts write it is left out."""
    for number, letter, after_ms, attempt in _HAPPENED.findall(hist):
        kind = _KINDS.get(letter, "job.stage")
        fields = {"stage": _STAGES[letter]} if letter in _STAGES else {"attempt": int(attempt)} if attempt else {}
        yield int(number), kind, {"after_ms": int(after_ms), **fields}


_HAPPENED = re.compile(r"(\d+)([qrxfdg])(\d+)(?::(\d+))? ")
_KINDS = {"q": "job.queued", "r": "job.running", "x": "job.reset"}
_STAGES = {"f": Stage.FETCHING, "d": Stage.DECODING, "g": Stage.GENERATING}


def _newest_of(stream: str) -> Look:
    return ("XREVRANGE", stream, "+", "-", "COUNT", 1)


def _number(event_id: str) -> int:
    return int(event_id.partition("-")[0])


def _order(event_id: str) -> tuple[int, ...]:
    return tuple(map(int, event_id.split("-")))
