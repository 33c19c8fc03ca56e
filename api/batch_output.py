"""The output of a batch: results wait in Redis, go to parts of a file some hundred at a time, and are joined at the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from api.deps import Parts
from api.files import JSONL
from shared.batches import Batch, Kind
from shared.blobs import upload_name
from shared.uploads import Upload

PART_LINES = 500  #: results that Redis holds before they go to a file


class BatchOutput:
    """A batch's two files, of answers and of errors."""

    def __init__(self, parts: Parts, batch_id: str, *, owner: str) -> None:
        """Write nothing yet."""
        self._parts, self._batches, self._id, self._owner = parts, parts.batches, batch_id, owner
        self._flushing = asyncio.Lock()

    def _part(self, kind: Kind, number: int) -> str:
        return f"batches/{self._id}/{kind}-{number}"

    async def flush(self, kind: Kind, *, at_least: int = PART_LINES) -> None:
        """Move finished lines from Redis to the next part of a file, where there are so many of them."""
        async with self._flushing:
            lines = await self._batches.pending(self._id, kind, PART_LINES)
            if lines and len(lines) >= at_least:
                part = (await self._batches.get(self._id)).parts[kind]
                await self._parts.blobs.put_bytes(self._part(kind, part), "".join(f"{line}\n" for line in lines).encode())
                await self._batches.flushed(self._id, kind, part=part, n_lines=len(lines))

    async def flush_all(self, kind: Kind) -> None:
        """Move the rest of them."""
        while await self._batches.pending(self._id, kind, 1):
            await self.flush(kind, at_least=1)

    async def join(self, kind: Kind, n_parts: int, file_id: str, rest: AsyncIterator[bytes]) -> int:
        """Join a file's parts, and the rest behind them; gives its length in bytes, 0 where there is no file."""
        now, name = int(time.time()), upload_name(file_id)
        n_bytes, sha256, _ = await self._parts.blobs.put(name, self._contents(kind, n_parts, rest))
        if not n_bytes:
            await self._parts.blobs.delete(name)
            return 0
        facts = {"filename": f"{self._id}_{kind}.jsonl", "media_type": JSONL, "purpose": "batch_output"}
        expires_at = now + self._parts.settings.upload_ttl_s
        upload = Upload(id=file_id, bytes=n_bytes, created_at=now, expires_at=expires_at, sha256=sha256, **facts)
        await self._parts.uploads.add(upload, owner=self._owner)
        return n_bytes

    async def _contents(self, kind: Kind, n_parts: int, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        for part in range(n_parts):
            yield await self._parts.blobs.get(self._part(kind, part))
        async for data in rest:
            yield data

    async def forget_parts(self, kind: Kind, n_parts: int) -> None:
        """Remove the parts of a file that was joined."""
        await self._parts.blobs.delete(*(self._part(kind, n) for n in range(n_parts)))


def line_result(batch: Batch, line: int, custom_id: str, *, response: Any = None, error: Any = None) -> dict[str, Any]:
    """Make a line of an output or error file."""
    name = f"batch_req_{batch.id.removeprefix('batch_')}_{line}"
    return {"id": name, "custom_id": custom_id, "response": response, "error": error}
