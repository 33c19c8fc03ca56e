"""Batches: many chats in one file. All progress stands in Redis, so another runner can go on where one died.

Keys: ``batch:<id>`` (hash) · ``batches:<owner>`` id → created, ms · ``batches_open:<owner>`` ids · ``batches_open`` id → end of
its runner's lease, 0 where nobody began it · ``batch:<id>:flight`` line → where it stands in the input, and what its result
needs (hash) · ``batch:<id>:output``, ``batch:<id>:error`` finished lines that are not yet in a part of the file ·
``batch:<id>:output_parts``, ``batch:<id>:error_parts`` names of the parts written so far. In the record: ``offset`` and
``line``, up to which the input is taken; ``token`` of the lease, which each call of a runner shows.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import uuid_utils

from shared.errors import InvalidRequest, NotFound, TooManyBatches, UploadUnknown
from shared.settings import Settings
from shared.store.connection import reply
from shared.store.ids import new_id
from shared.store.records import Records
from shared.store.usage import quota_exceeded

KEEP_S = 7 * 24 * 3600  #: a batch can be read for so long after it ended
Kind = Literal["output", "error"]
Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
Taken = Literal["taken", "full", "stop"]
FREE_LIMIT = 500  #: batches that a runner looks at, to find one to run
_COUNTS = ("total", "completed", "failed")


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
    waiting: str  #: why it does not go on for the time being; empty where it does
    waiting_code: str  #: the same in one word
    traceparent: str  #: of the span that created it; empty where that was not traced

    def job_id(self, line: Line) -> str:
        """Name a line's job; always the same, so that submitting it again after a crash changes nothing."""
        return f"job_{hashlib.sha256(f'{self.id}:{line.number}'.encode()).hexdigest()[:32]}"


class Batches(Records):
    """Reads and moves batches."""

    lasting = ("batch_create",)

    # --- the client's side ---

    async def create(
        self,
        owner: str,
        facts: dict[str, str],
        *,
        window_s: int,
        max_open: int,
        metadata: dict[str, str],
        traceparent: str = "",
    ) -> Batch:
        """Write a batch's record; the next runner that looks takes it.

        Args:
            owner: whose it is.
            facts: its ``input_file_id``, ``endpoint`` and ``completion_window``.
            window_s: seconds after which what is not done is left out.
            max_open: batches that an owner may have open at a time.
            metadata: the client's own.
            traceparent: of the span that creates it, if there is one.

        Raises:
            TooManyBatches: that many are open.
            UploadUnknown: the input is not there, or another owner's.
        """
        seconds, micros = await self.redis.time()
        batch_id = f"batch_{uuid_utils.uuid7(timestamp=seconds, nanos=micros * 1000).hex}"
        record = {"metadata": json.dumps(metadata, ensure_ascii=False), **facts}
        record |= {"traceparent": traceparent} if traceparent else {}
        upload = record.pop("input_file_id")
        made = await self._run(
            "batch_create", batch_id, owner, upload, max_open, _created_ms(batch_id), window_s, *_flat(record)
        )
        if made == "full":
            msg = (
                f"{max_open} of your batches are open, which is as many as may be at a time (SIGHTLINE_MAX_OPEN_BATCHES); "
                "send this one again when one of them has ended"
            )
            raise TooManyBatches(msg, retry_after_s=60)
        if made == "gone":
            raise UploadUnknown(param="input_file_id")
        return await self.get(batch_id)

    async def cancel(self, batch_id: str) -> Status:
        """Have a batch stopped; gives its status before."""
        return cast("Status", await self._run("batch_cancel", batch_id))

    async def get(self, batch_id: str, *, owner: str | None = None) -> Batch:
        """Read a batch.

        Raises:
            NotFound: there is none, or it is another owner's.
            RecordUnreadable: the record is damaged, or of another version.
        """
        read = await self._owned(batch_id)
        if not read or owner not in (None, read[0]):
            raise NotFound("there is no batch by that id")
        return read[1]

    async def list_batches(self, *, owner: str, limit: int, after: str | None) -> tuple[list[Batch], bool]:
        """List an owner's batches, newest first, and say whether there are more.

        Args:
            owner: whose.
            limit: most batches to give.
            after: id of the last batch of the page before, which may be gone by now.

        Raises:
            InvalidRequest: ``after`` is no id of a batch.
        """

        async def read(batch_id: str) -> Batch | None:
            found = await self._owned(batch_id)
            return found and found[1]

        return await self._list(f"batches:{owner}", read, limit=limit, after=after)

    async def _owned(self, batch_id: str) -> tuple[str, Batch] | None:
        return await self._record(f"batch:{batch_id}", lambda record: (record["owner"], _batch(batch_id, record)))

    # --- the runner's side: every call raises LeaseLost where the lease has ended or is another's ---

    async def free(self) -> list[tuple[str, str]]:
        """Give the batches that nobody runs now, and their owners; the most urgent first."""
        flat = cast("list[str]", await self._run("batch_free", FREE_LIMIT))
        return list(zip(flat[::2], flat[1::2], strict=True))

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
        await self._held("batch_note", lease, *_flat(facts))

    async def move(self, lease: Lease, status: Status, **facts: str) -> Status:
        """Set its status, and the time of it; an end goes to its owner's endpoints, and ends the lease.

        Returns:
            The status from now on: one being cancelled stays so until it has ended.
        """
        return cast("Status", await self._held("batch_move", lease, status, KEEP_S, *_flat(facts)))

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

    async def now_s(self) -> int:
        """Give the time by Redis's clock, Unix seconds."""
        seconds, _ = await self.redis.time()
        return int(seconds)

    async def _held(self, script: str, lease: Lease, *args: str | float) -> Any:
        answer = await self._run(script, *lease, *args)
        if answer is None:
            raise LeaseLost(lease.batch_id)
        return answer


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _flat(facts: dict[str, Any]) -> list[Any]:
    return [part for pair in facts.items() for part in pair]


def _created_ms(batch_id: str) -> int:
    """Read from an id when it was made: its first 48 bits, by Redis's clock."""
    try:
        return int(batch_id.removeprefix("batch_")[:12], 16)
    except ValueError as error:
        msg = "after is no id of a batch; it takes the last_id of the page before"
        raise InvalidRequest(msg, param="after") from error


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
        file_ids={kind: record[f"{kind}_file"] for kind in ("output", "error") if record.get(f"{kind}_file")},
        offset=int(record.get("offset", 0)),
        line=int(record.get("line", 0)),
        waiting=record.get("waiting", ""),
        waiting_code=record.get("waiting_code") or "waiting_for_storage",  # all that versions before this one knew
        traceparent=record.get("traceparent", ""),
    )
