"""Removes files that nobody needs any more: those of purged jobs and expired uploads, and those that a crash left behind."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import cast

import structlog

from shared.blobs import Blobs, inline_name, upload_name
from shared.errors import StorageUnavailable
from shared.settings import Settings
from shared.store import clock
from shared.store.connection import Client
from shared.store.jobs import JobStore
from shared.store.records import Records
from shared.store.uploads import Uploads

log = structlog.get_logger()

#: One worker of the fleet sweeps so often: what it finds is rare, since everything that ends is removed by its record.
SWEEP_EVERY_S = 3600.0
#: The folders that are ours, in a place that may hold other people's files, and what ours look like there. A number behind a
#: hash is a file's that was never finished.
TOPS = ("uploads", "inline", "batches")
_OURS = re.compile(
    r"uploads/(?P<upload>file-[0-9a-f]{32})(#\d+)?"
    r"|inline/(?P<job>job_[0-9a-f]{32})-\d+(#\d+)?"
    r"|batches/(?P<batch>batch_[0-9a-f]{32})/[\w.-]+(#\d+)?",
    re.ASCII,
)


def record_of(name: str) -> str | None:
    """Name the record that a file belongs to; None of a file that is not ours."""
    if found := _OURS.fullmatch(name):
        return next(f"{kind}:{ident}" for kind, ident in found.groupdict().items() if ident)
    return None


class Janitor(Records):
    """Keys: ``swept``, there while nobody needs to sweep · ``unclaimed`` orphans → when first found, ms."""

    def __init__(self, settings: Settings, redis: Client, blobs: Blobs) -> None:
        """Do nothing yet."""
        super().__init__(redis)
        self._settings, self._blobs = settings, blobs
        self._store, self._uploads = JobStore(redis), Uploads(redis)

    async def purge(self) -> None:
        """Clear away jobs past their retention and uploads past their expiry, their files first where they would be lost."""
        most = self._settings.limit_images + self._settings.limit_videos
        while gone := await self._store.purge_expired_jobs():
            await self._blobs.discard(*(inline_name(job_id, n) for job_id in gone for n in range(most)))
        while due := await self._uploads.take_due():
            await self._blobs.delete(*(upload_name(upload_id) for upload_id, _ in due))
            await self._uploads.forget(*due)

    async def sweep(self) -> None:
        """Sweep, if no worker has for an hour. A worker whose clock is wrong keeps its hands off files.

        Raises:
            StorageUnavailable: the place is away; whoever looks next, a minute later, begins anew.
        """
        if clock.is_off(skew_s := await clock.skew_s(self.redis)):
            log.warning("sweep.refused", skew_s=round(skew_s))
            return
        if not await self.redis.set(self._key("swept"), 1, nx=True, px=int(1000 * SWEEP_EVERY_S)):
            return
        try:
            await self._remove_orphans()
        except StorageUnavailable:
            await self.redis.delete(self._key("swept"))
            raise
        await self._forget_missing()

    async def _remove_orphans(self) -> None:
        n_files = 0
        for top in TOPS:
            async for page in self._blobs.names(top):
                ours = [(name, record) for name in page if (record := record_of(name))]
                if old := await self._orphans_of(ours):
                    await self._blobs.delete(*old)
                    await self.redis.zrem(self._key("unclaimed"), *old)
                    n_files += len(old)
        if n_files:
            log.info("sweep.removed", files=n_files)

    async def _orphans_of(self, ours: list[tuple[str, str]]) -> list[str]:
        if not ours:
            return []
        flat: Iterator[str] = (part for pair in ours for part in pair)
        return cast("list[str]", await self._run("orphaned_files", 1000 * self._settings.upload_ttl_s, *flat))

    async def _forget_missing(self) -> None:
        """Forget files that were removed by somebody else: a sweep would have removed them by now."""
        before_s = await clock.now_s(self.redis) - self._settings.upload_ttl_s - 2 * SWEEP_EVERY_S
        await self.redis.zremrangebyscore(self._key("unclaimed"), "-inf", int(1000 * before_s))
