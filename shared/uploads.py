"""Uploads: what is known of each stored file that jobs may name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from shared.blobs import upload_name
from shared.database import Records, reply
from shared.errors import FileInUse, UploadUnknown


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
    """Keys: ``upload:<id>``, which expires with the file · ``uploads:<owner>`` id → created."""

    scripts = ("forget_upload",)

    async def add(self, upload: Upload, *, owner: str) -> None:
        """Make a stored file known under its id."""
        key = self._key(f"upload:{upload.id}")
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.hset(key, mapping=cast("Any", {**upload.__dict__, "owner": owner}))
            pipe.expireat(key, upload.expires_at)
            pipe.zadd(self._key(f"uploads:{owner}"), {upload.id: upload.created_at})
            await pipe.execute()

    async def list_uploads(
        self, *, owner: str, limit: int, after: str | None, purpose: str | None
    ) -> tuple[list[Upload], bool]:
        """List an owner's uploads that have not expired, newest first, and say whether there are more."""
        index, found = self._key(f"uploads:{owner}"), list[Upload]()
        rank = await self.redis.zrevrank(index, after) if after else None
        start = 0 if rank is None else int(cast("int", rank)) + 1
        while len(found) <= limit:
            ids = cast("list[str]", await self.redis.zrevrange(index, start, start + limit))
            if not ids:
                return found, False
            for upload_id in ids:
                record = await reply(self.redis.hgetall(self._key(f"upload:{upload_id}")))
                if not record:
                    await self.redis.zrem(index, upload_id)  # it has expired
                    continue
                start += 1
                if purpose in (None, record.get("purpose", "vision")):
                    found.append(_upload(record))
        return found[:limit], True

    async def remove(self, upload: Upload, *, owner: str) -> None:
        """Forget an upload.

        Raises:
            FileInUse: an open batch reads it.
        """
        if batch_id := await self._run("forget_upload", upload.id, owner):
            msg = f"the batch {batch_id} reads this file and has not ended; cancel it, or delete the file when it has"
            raise FileInUse(msg)

    async def get(self, upload_id: str, *, owner: str, param: str | None = None) -> Upload:
        """Read an upload's facts.

        Raises:
            UploadUnknown: never there, expired, or another owner's.
        """
        record = await reply(self.redis.hgetall(self._key(f"upload:{upload_id}")))
        if not record or record["owner"] != owner:
            raise UploadUnknown(param=param)
        return _upload(record)


def _upload(record: dict[str, str]) -> Upload:
    whole = {name: int(record[name]) for name in ("bytes", "created_at", "expires_at")}
    facts: dict[str, Any] = {name: value for name, value in record.items() if name != "owner"} | whole
    return Upload(**facts)
