"""Batches: many chats in one file. All progress stands in Redis, so whoever runs one may die and another goes on.

Keys: ``batch:<id>`` (hash) · ``batches:<owner>`` id → created · ``batches_open`` id → end of its runner's lease ·
``batch:<id>:flight`` line → where it stands in the input (hash) · ``batch:<id>:output``, ``batch:<id>:error`` finished lines
that are not yet in a part of the file. In the record: ``offset`` and ``line``, up to which the input is taken;
``output_parts`` and ``error_parts``, the files written so far.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal, cast

from shared.database import Records, new_id, reply
from shared.errors import NotFound

KEEP_S = 7 * 24 * 3600  #: a batch can be read for so long after it ended
Kind = Literal["output", "error"]
Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
#: What an open batch may become; an open one is run by somebody.
OPEN = frozenset({"validating", "in_progress", "finalizing", "cancelling"})
_COUNTS = ("total", "completed", "failed")


@dataclass(frozen=True)
class Line:
    """Where a line stands in the input. Numbers count from 1."""

    number: int
    offset: int
    n_bytes: int


@dataclass(frozen=True)
class Batch:
    """A batch's record."""

    id: str
    owner: str
    status: Status
    input_file_id: str
    endpoint: str
    completion_window: str
    created_at: int
    expires_at: int
    metadata: dict[str, str]
    counts: dict[str, int]
    stamps: dict[str, int]  #: ``in_progress_at`` and the like
    errors: list[dict[str, Any]]
    file_ids: dict[str, str]  #: of ``output`` and ``error``, chosen when the files are about to be written
    offset: int
    line: int
    parts: dict[str, int]

    def job_id(self, line: Line) -> str:
        """Name a line's job; always the same, so that submitting it again after a crash changes nothing."""
        return f"job_{hashlib.sha256(f'{self.id}:{line.number}'.encode()).hexdigest()[:32]}"


class Batches(Records):
    """Reads and moves batches."""

    scripts = ("batch_lease", "batch_take", "batch_done", "batch_flush", "batch_move")

    # --- the client's side ---

    async def create(self, owner: str, facts: dict[str, str], *, window_s: int, metadata: dict[str, str]) -> Batch:
        """Write a batch's record; whoever looks next runs it."""
        batch_id = new_id("batch")
        seconds, _ = await self.redis.time()
        times = {"created_at": seconds, "expires_at": seconds + window_s}
        record = {
            "owner": owner,
            "status": "validating",
            "metadata": json.dumps(metadata, ensure_ascii=False),
            **facts,
            **times,
        }
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.hset(self._key(f"batch:{batch_id}"), mapping=cast("Any", record))
            pipe.zadd(self._key(f"batches:{owner}"), {batch_id: seconds})
            pipe.zadd(self._key("batches_open"), {batch_id: 0})
            await pipe.execute()
        return await self.get(batch_id)

    async def get(self, batch_id: str, *, owner: str | None = None) -> Batch:
        """Read a batch.

        Raises:
            NotFound: there is none, or it is another owner's.
        """
        record = await reply(self.redis.hgetall(self._key(f"batch:{batch_id}")))
        if not record or owner not in (None, record["owner"]):
            raise NotFound("there is no batch by that id")
        return _batch(batch_id, record)

    async def list_batches(self, *, owner: str, limit: int, after: str | None) -> tuple[list[Batch], bool]:
        """List an owner's batches, newest first, and say whether there are more."""
        index = self._key(f"batches:{owner}")
        rank = await self.redis.zrevrank(index, after) if after else None
        start = 0 if rank is None else int(cast("int", rank)) + 1
        ids = cast("list[str]", await self.redis.zrevrange(index, start, start + limit))
        records = [(batch_id, await reply(self.redis.hgetall(self._key(f"batch:{batch_id}")))) for batch_id in ids[:limit]]
        return [_batch(batch_id, record) for batch_id, record in records if record], len(ids) > limit

    # --- the runner's side ---

    async def open_ids(self) -> list[str]:
        """Give the batches that nobody runs now."""
        now_ms = await self._now_ms()
        return cast("list[str]", await self.redis.zrangebyscore(self._key("batches_open"), "-inf", now_ms))

    async def lease(self, batch_id: str, *, lease_s: float) -> bool:
        """Become the one who runs a batch, if nobody does."""
        return bool(await self._run("batch_lease", batch_id, int(lease_s * 1000)))

    async def renew(self, batch_id: str, *, lease_s: float) -> None:
        """Go on running it; 0 hands it back."""
        at_ms = await self._now_ms() + int(lease_s * 1000) if lease_s else 0
        await self.redis.zadd(self._key("batches_open"), {batch_id: at_ms}, xx=True)

    async def move(self, batch_id: str, status: Status, *, unless: frozenset[str] = frozenset(), **facts: Any) -> None:
        """Set a batch's status and the time of it; one that has ended is no longer open, and its owner's endpoints are told.

        Args:
            batch_id: which.
            status: the new one.
            unless: statuses in which it is left alone, as is every one that is final.
            facts: further fields.
        """
        left_alone = "".join(f"{name} " for name in unless)
        fields = [part for fact in facts.items() for part in fact]
        await self._run("batch_move", batch_id, status, left_alone, KEEP_S, *fields)

    async def name_files(self, batch_id: str) -> dict[str, str]:
        """Choose the ids of the two files, once."""
        key = self._key(f"batch:{batch_id}")
        for kind in ("output", "error"):
            await reply(self.redis.hsetnx(key, f"{kind}_file", new_id("file").replace("_", "-", 1)))
        return (await self.get(batch_id)).file_ids

    async def take(self, batch_id: str, line: Line) -> bool:
        """Take the next line: it is in flight from now on. False where somebody else has taken it."""
        return bool(await self._run("batch_take", batch_id, line.number, line.offset, line.n_bytes))

    async def flight(self, batch_id: str) -> list[Line]:
        """Give the lines in flight."""
        places = await reply(self.redis.hgetall(self._key(f"batch:{batch_id}:flight")))
        return [Line(int(number), *map(int, place.split(":"))) for number, place in places.items()]

    async def finish(self, batch_id: str, line: Line, kind: Kind, result: dict[str, Any], *, count: str) -> None:
        """Keep a line's result, once whoever asks how often."""
        text = json.dumps(result, ensure_ascii=False)
        await self._run("batch_done", batch_id, line.number, kind, text, count)

    async def pending(self, batch_id: str, kind: Kind, limit: int) -> list[str]:
        """Give finished lines that are in no part yet, the oldest first."""
        return cast("list[str]", await reply(self.redis.lrange(self._key(f"batch:{batch_id}:{kind}"), 0, limit - 1)))

    async def flushed(self, batch_id: str, kind: Kind, *, part: int, n_lines: int) -> None:
        """Forget lines that are in a part now; a call repeated does nothing."""
        await self._run("batch_flush", batch_id, kind, part, n_lines)

    async def _now_ms(self) -> int:
        seconds, micros = await self.redis.time()
        return seconds * 1000 + micros // 1000


def _batch(batch_id: str, record: dict[str, str]) -> Batch:
    stamps = {name: int(value) for name, value in record.items() if name.endswith("_at")}
    return Batch(
        id=batch_id,
        owner=record["owner"],
        status=cast("Status", record["status"]),
        input_file_id=record["input_file_id"],
        endpoint=record["endpoint"],
        completion_window=record["completion_window"],
        created_at=stamps.pop("created_at"),
        expires_at=stamps.pop("expires_at"),
        metadata=json.loads(record["metadata"]),
        counts={name: int(record.get(name, 0)) for name in _COUNTS},
        stamps=stamps,
        errors=json.loads(record.get("errors", "[]")),
        file_ids={kind: record[f"{kind}_file"] for kind in ("output", "error") if f"{kind}_file" in record},
        offset=int(record.get("offset", 0)),
        line=int(record.get("line", 0)),
        parts={kind: int(record.get(f"{kind}_parts", 0)) for kind in ("output", "error")},
    )
