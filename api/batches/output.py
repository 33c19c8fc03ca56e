"""The output of a batch: results wait in Redis, go to parts of a file some hundred at a time, and are joined at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from api.batches.storage import Storage
from api.files import JSONL, remove_file
from api.services import Services
from shared.blobs import upload_name
from shared.errors import MediaUnreadable
from shared.store.batch_leases import Kind, Lease, LeaseLost, Line
from shared.store.batches import Batch
from shared.store.ids import new_id

PART_LINES = 500  #: results that Redis holds before they go to a file
KINDS: tuple[Kind, Kind] = ("output", "error")
Rest = Callable[[], AsyncIterator[bytes]]


class BatchOutput:
    """A batch's two files, of answers and of errors."""

    def __init__(self, services: Services, storage: Storage, lease: Lease, batch: Batch) -> None:
        """Write nothing yet."""
        self._services, self._storage, self._lease, self._batch = services, storage, lease, batch
        self._batches, self._blobs = services.batches, services.blobs
        self._due = set[Kind]()
        self.is_short = False  #: whether a part was gone when the files were written

    async def keep(self, line: Line, kind: Kind, result: dict[str, Any], *, count: str) -> None:
        """Keep a line's result in Redis; a repeated call changes nothing."""
        job_id = self._batch.job_id(line)
        if await self._batches.finish(self._lease, line, job_id, kind, result, count=count) >= PART_LINES:
            self._due.add(kind)

    async def flush_due(self) -> None:
        """Move results to a part where Redis holds many. While none can be written no line is taken, so that they stay few."""
        while self._due:
            await self._flush(self._due.pop())

    async def _flush(self, kind: Kind) -> bool:
        lines, n_parts = await self._batches.pending(self._batch.id, kind, PART_LINES)
        if not lines:
            return False
        # The token in its name: a runner that has lost its lease, and wakes up, writes over nobody's part.
        part = f"batches/{self._batch.id}/{kind}-{n_parts}-{self._lease.token}"
        data = "".join(f"{line}\n" for line in lines).encode()
        await self._storage.ask(lambda: self._blobs.put_bytes(part, data))
        await self._batches.flushed(self._lease, kind, n_parts=n_parts, part=part, n_lines=len(lines))
        return True

    async def write(self, rest: dict[Kind, Rest]) -> dict[str, str]:
        """Write the files out; gives the fields that name them in the batch's record, empty where there is none.

        Args:
            rest: what stands behind the results of a kind.
        """
        for kind in KINDS:
            while await self._flush(kind):
                pass
        for file_id in (await self._batches.get(self._batch.id)).file_ids.values():
            await remove_file(file_id, self._services, owner=self._batch.owner)  # of a runner that came so far and no further
        names = {f"{kind}_file": new_id("file").replace("_", "-", 1) for kind in KINDS}
        await self._batches.note(self._lease, **names)
        for kind in KINDS:
            if not await self._join(kind, names[f"{kind}_file"], rest.get(kind)):
                names[f"{kind}_file"] = ""
        return names

    async def _join(self, kind: Kind, file_id: str, rest: Rest | None) -> bool:
        """Join a file's parts, and the rest behind them; says whether there is anything."""
        parts = await self._batches.parts(self._batch.id, kind)
        if not parts and rest is None:
            return False
        name = upload_name(file_id)
        n_bytes, sha256, _ = await self._storage.ask(partial(self._put, name, parts, rest))
        if not n_bytes:
            await self._blobs.discard(name)
            return False
        await self._services.uploads.add(
            file_id,
            owner=self._batch.owner,
            ttl_s=self._services.settings.upload_ttl_s,
            bytes=n_bytes,
            filename=f"{self._batch.id}_{kind}.jsonl",
            media_type=JSONL,
            sha256=sha256,
            purpose="batch_output",
        )
        return True

    async def _put(self, name: str, parts: list[str], rest: Rest | None) -> tuple[int, str, bytes]:
        async def contents() -> AsyncIterator[bytes]:
            for part in parts:
                yield await self._part(part)
            if rest:
                async for data in rest():
                    yield data

        return await self._blobs.put(name, contents())

    async def _part(self, name: str) -> bytes:
        try:
            return await self._blobs.get(name)
        except MediaUnreadable:
            self.is_short = True
            return b""

    async def end(self, status: Any, files: dict[str, str], **facts: str) -> None:
        """End the batch, with these files.

        Raises:
            LeaseLost: another runner ends it, with files of its own.
        """
        parts = [part for kind in KINDS for part in await self._batches.parts(self._batch.id, kind)]
        try:
            await self._batches.move(self._lease, status, **files, **facts)
        except LeaseLost:
            for file_id in filter(None, files.values()):
                await remove_file(file_id, self._services, owner=self._batch.owner)
            raise
        await self._blobs.discard(*parts)


def line_result(batch: Batch, line: int, custom_id: str, *, response: Any = None, error: Any = None) -> dict[str, Any]:
    """Make a line of an output or error file."""
    name = f"batch_req_{batch.id.removeprefix('batch_')}_{line}"
    return {"id": name, "custom_id": custom_id, "response": response, "error": error}
