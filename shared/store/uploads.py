"""Uploads: what is known of each stored file that jobs may name."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast

from shared.blobs import upload_name
from shared.errors import FileInUse, UploadUnknown
from shared.store import clock
from shared.store.records import Records

DUE_LIMIT = 200  #: uploads whose files are removed at a time
DUE_LEASE_S = 60.0  #: time to remove them


@dataclass(frozen=True)
class Upload:
    """A stored file that jobs may name by its id."""

    id: str
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    media_type: str
    sha256: str
    purpose: str = "vision"

    @property
    def blob(self) -> str:
        """Where its bytes are."""
        return upload_name(self.id)


class Uploads(Records):
    """Keys: ``upload:<id>`` · ``uploads:<owner>`` id → created, s · ``uploads_due`` id → when its file is removed, ms.

    An upload expires for its owner at ``expires_at``. Its file, and the record with it, stays for as long as a job that named
    it before then may need it, or an open batch reads it.
    """

    async def add(self, upload_id: str, *, owner: str, ttl_s: int, **facts: Any) -> Upload:
        """Make a stored file known under its id, and say from when until when.

        Args:
            upload_id: its id.
            owner: whose it is.
            ttl_s: how long it can be named.
            facts: the other fields of an upload.
        """
        now_s = int(await clock.now_s(self.redis))
        upload = Upload(id=upload_id, created_at=now_s, expires_at=now_s + ttl_s, **facts)
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.hset(self._key(f"upload:{upload_id}"), mapping=cast("Any", {**upload.__dict__, "owner": owner}))
            pipe.zadd(self._key(f"uploads:{owner}"), {upload_id: now_s})
            pipe.zadd(self._key("uploads_due"), {upload_id: 1000 * upload.expires_at})
            await pipe.execute()
        return upload

    async def get(self, upload_id: str, *, owner: str, param: str | None = None, keep_s: float = 0.0) -> Upload:
        """Read an upload's facts.

        Args:
            upload_id: which.
            owner: who asks.
            param: where the id stood in the request, for the error.
            keep_s: its file will be needed for so long, also when it expires before.

        Raises:
            UploadUnknown: never there, expired, or another owner's.
            RecordUnreadable: the record is damaged, or of another version.
        """
        read, now_s = await asyncio.gather(self._owned(upload_id), clock.now_s(self.redis))
        if not read or read[0] != owner or read[1].expires_at <= now_s:
            raise UploadUnknown(param=param)
        if (until_s := now_s + keep_s) > read[1].expires_at:
            await self.redis.ask("ZADD", self._key("uploads_due"), "XX", "GT", int(1000 * until_s), upload_id)
        return read[1]

    async def list_uploads(
        self, *, owner: str, limit: int, after: str | None, purpose: str | None
    ) -> tuple[list[Upload], bool]:
        """List an owner's uploads that have not expired, newest first, and say whether there are more.

        Raises:
            InvalidRequest: nothing tells where ``after`` stood.
        """
        now_s = await clock.now_s(self.redis)

        async def read(upload_id: str) -> Upload | None:
            found = await self._owned(upload_id)
            is_wanted = found and found[1].expires_at > now_s and purpose in (None, found[1].purpose)
            return found[1] if found and is_wanted else None

        return await self._list(f"uploads:{owner}", read, limit=limit, after=after, unit_ms=1000)

    async def _owned(self, upload_id: str) -> tuple[str, Upload] | None:
        return await self._record(f"upload:{upload_id}", lambda record: (record["owner"], _upload(record)))

    async def expire(self, upload_id: str, *, owner: str) -> None:
        """End an upload now, whatever jobs named it; its file is due to be removed.

        Raises:
            FileInUse: an open batch reads it.
        """
        if batch_id := await self._run("expire_upload", upload_id, owner):
            msg = f"the batch {batch_id} reads this file and has not ended; cancel it, or delete the file when it has"
            raise FileInUse(msg)

    async def take_due(self) -> list[tuple[str, str]]:
        """Give ids and owners of uploads whose files are due; for a minute they are the caller's to remove."""
        due = cast("list[str]", await self._run("expired_uploads", DUE_LIMIT, int(1000 * DUE_LEASE_S)))
        return list(zip(due[::2], due[1::2], strict=True))

    async def forget(self, *uploads: tuple[str, str]) -> None:
        """Clear away what is known of uploads, given as id and owner, whose files are removed."""
        async with self.redis.pipeline(transaction=True) as pipe:
            for upload_id, owner in uploads:
                pipe.delete(self._key(f"upload:{upload_id}"))
                pipe.zrem(self._key(f"uploads:{owner}"), upload_id)
                pipe.zrem(self._key("uploads_due"), upload_id)
            await pipe.execute()


def _upload(record: dict[str, str]) -> Upload:
    whole = {name: int(record[name]) for name in ("bytes", "created_at", "expires_at")}
    facts: dict[str, Any] = {name: value for name, value in record.items() if name != "owner"} | whole
    return Upload(**facts)
