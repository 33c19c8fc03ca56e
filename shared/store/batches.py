"""Batches: many chats in one file. All progress stands in Redis, so another runner can go on where one died.

What a runner does under its lease is in :mod:`shared.store.batch_leases`.

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
from typing import Any, cast

import uuid_utils

from shared.errors import InvalidRequest, NotFound, TooManyBatches, UploadUnknown
from shared.store.batch_leases import BatchLeases, Line, Status
from shared.store.records import flat

_COUNTS = ("total", "completed", "failed")


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


class Batches(BatchLeases):
    """Makes, reads and cancels batches; what their runners do with them comes with it."""

    lasting = ("batch_create",)

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
            "batch_create", batch_id, owner, upload, max_open, _created_ms(batch_id), window_s, *flat(record)
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

    async def now_s(self) -> int:
        """Give the time by Redis's clock, Unix seconds."""
        seconds, _ = await self.redis.time()
        return int(seconds)


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
