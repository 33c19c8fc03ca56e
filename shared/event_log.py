"""The log of what happened to each job. The scripts that move a job write it, so whoever reads it cannot be told otherwise.

Keys: ``events:<job>`` the job's events (stream, ids 1-0, 2-0, ...; capped; expires with the record) · ``feed:<owner>`` state
events of all jobs of an owner, and the ends of batches (stream; capped; expires a week after the last) · in the record:
``events`` the last number given out, ``watched``, ``said`` how many bytes of the text are in the log · channel ``news``, the
job or ``feed:<owner>``.

Types: ``job.queued``, ``job.running``, ``job.stage``, ``job.delta`` a piece of text, ``job.reset`` the text so far is void
and starts again, ``job.succeeded``, ``job.failed``, ``job.cancelled``, and ``history_truncated`` where the cap took events
away. The joined deltas since the last reset are the output's text, to the letter.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from shared.database import NEWS, PREFIX, Client, Records
from shared.errors import Gone, NotFound
from shared.news import Look
from shared.store import Claim, JobStore

PAGE = 200  #: events read at a time
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

    scripts = ("say", "watch")

    def __init__(self, redis: Client, *, prefix: str = PREFIX) -> None:
        """Use an open client; all readers that wait share one of its connections."""
        super().__init__(redis, prefix=prefix)
        self._jobs = JobStore(redis, prefix=prefix)

    # --- the worker's side ---

    async def watch(self, job_id: str) -> None:
        """Ask for a job's text while it is generated; asked later, all of it comes as one delta before the end."""
        await self._run("watch", job_id)

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
        return [bool(answer) for answer in await self._run("say", *flat)]

    # --- the reader's side ---

    async def follow(self, job_id: str, *, after: str | None = None) -> AsyncGenerator[Entry]:
        """Give a job's events from the first on, then as they happen, up to its end.

        Args:
            job_id: whose; the caller has checked that it may be read.
            after: id of the last event that the reader has; left out, it has none.
        """
        last, events = int(after or 0), self._key(f"events:{job_id}")
        with self.redis.news.about(NEWS, job_id, _newest_of(events)) as news:
            while True:
                news.clear()
                page = await self._page(events, f"{last}-0")
                for event_id, fields in page:
                    number = _number(event_id)
                    async for entry in self._told(job_id, number, fields, last):
                        yield entry
                    if fields["type"] in FINALS:
                        return
                    last = number
                if not page and (newest := await self._newest(job_id)) != (last, False):
                    if newest is None or newest == (last, True):
                        return
                    if newest < (last, False):  # a Redis that restarted has forgotten what this reader was told
                        yield Entry("0", "job.reset", {"id": job_id})
                        last = 0
                elif len(page) < PAGE:
                    await news.wait()

    async def follow_owner(self, owner: str, *, after: str | None = None) -> AsyncGenerator[Entry]:
        """Give the states that all jobs of an owner reach, without end; first ``feed.opened``, to go on after.

        Args:
            owner: whose jobs.
            after: id of the last event that the reader has; left out, it hears only what happens from now on.
        """
        feed = self._key(f"feed:{owner}")
        newest = await self.redis.ask(*_newest_of(feed))
        last = after or (newest[0][0] if newest else "0-0")
        yield Entry(last, "feed.opened", {})
        oldest = await self.redis.ask("XRANGE", feed, "-", "+", "COUNT", 1)
        if after and oldest and _order(oldest[0][0]) > _order(after):
            yield Entry(last, "history_truncated", {})
        with self.redis.news.about(NEWS, f"feed:{owner}", _newest_of(feed)) as news:
            while True:
                news.clear()
                page = await self._page(feed, last)
                for last, fields in page:  # each moves the reader on
                    yield Entry(last, fields["type"], {"id": fields["job"], "sequence": int(fields["n"])})
                if len(page) < PAGE:
                    await news.wait()

    async def _page(self, key: str, last: str) -> list[tuple[str, dict[str, str]]]:
        answer = await self.redis.ask("XREAD", "COUNT", PAGE, "STREAMS", key, last)
        return [event for _, page in cast("list[Any]", answer) for event in page]

    async def _newest(self, job_id: str) -> tuple[int, bool] | None:
        """Give the newest event's number and whether it is the end; None where the job is gone."""
        page = await self.redis.ask(*_newest_of(self._key(f"events:{job_id}")))
        return (_number(page[0][0]), page[0][1]["type"] in FINALS) if page else None

    async def _told(self, job_id: str, number: int, fields: dict[str, str], last: int) -> AsyncIterator[Entry]:
        """Give what an event tells a reader who has the events up to ``last``."""
        final = fields["type"] in FINALS
        if number - final - 1 > last:
            yield Entry(str(number - final - 1), "history_truncated", {"id": job_id})
        if not final:
            yield _entry(job_id, number, fields)
            return
        async for entry in self._end(job_id, number, fields, said_all=last >= number - 1):
            yield entry

    async def _end(self, job_id: str, number: int, fields: dict[str, str], *, said_all: bool) -> AsyncIterator[Entry]:
        """Give the rest of the text, as far as it is not in the log, and the end."""
        try:
            job = await self._jobs.get(job_id)
        except (NotFound, Gone):  # its retention is over at this very moment
            return
        rest = job.output.text.encode()[int(fields["said"]) :].decode() if job.output else ""
        if rest and not said_all:
            yield Entry(str(number - 1), "job.delta", {"id": job_id, "text": rest})
        yield Entry(str(number), fields["type"], job.model_dump(mode="json"))


def _newest_of(stream: str) -> Look:
    return ("XREVRANGE", stream, "+", "-", "COUNT", 1)


def _number(event_id: str) -> int:
    return int(event_id.partition("-")[0])


def _order(event_id: str) -> tuple[int, ...]:
    return tuple(map(int, event_id.split("-")))


def _entry(job_id: str, number: int, fields: dict[str, str]) -> Entry:
    known: dict[str, Any] = {name: fields[name] for name in ("stage", "text") if name in fields}
    if "attempt" in fields:
        known["attempt"] = int(fields["attempt"])
    return Entry(str(number), fields["type"], {"id": job_id, **known})
