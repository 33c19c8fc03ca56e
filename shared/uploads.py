"""Uploads: what is known of each stored file that jobs may name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from shared.database import Records, reply
from shared.errors import UploadUnknown


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


class Uploads(Records):
    """Keys: ``upload:<id>``, which expires with the file."""

    async def add(self, upload: Upload, *, owner: str) -> None:
        """Make a stored file known under its id."""
        key = self._key(f"upload:{upload.id}")
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.hset(key, mapping=cast("Any", {**upload.__dict__, "owner": owner}))
            pipe.expireat(key, upload.expires_at)
            await pipe.execute()

    async def get(self, upload_id: str, *, owner: str, param: str | None = None) -> Upload:
        """Read an upload's facts.

        Raises:
            UploadUnknown: never there, expired, or another owner's.
        """
        record = await reply(self.redis.hgetall(self._key(f"upload:{upload_id}")))
        if not record or record.pop("owner") != owner:
            raise UploadUnknown(param=param)
        whole = {name: int(record[name]) for name in ("bytes", "created_at", "expires_at")}
        return Upload(**(record | whole))
