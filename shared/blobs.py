"""Uploads and inline media by reference: a folder, or s3://; jobs and messages carry only names."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, ObjectStore, from_url

from shared.convoy import Convoy
from shared.errors import MediaUnreadable, StorageFull
from shared.media_types import HEAD_BYTES

#: A disk with less than this is full, whatever it says.
LEAST_ROOM_BYTES = 2**20
FOLDER_TRIES = 5
#: Up to this size a file is written by the event loop itself: the way to a thread and back costs more than the disk.
AT_ONCE_BYTES = 64 * 1024
#: A disk that takes longer for one of those is a network's or stalls: for a minute, threads wait for it instead of the loop.
SLOW_S, SLOW_FOR_S = 0.02, 60.0


def upload_name(file_id: str) -> str:
    """Name the file of an upload."""
    return f"uploads/{file_id}"


def inline_name(job_id: str, n: int) -> str:
    """Name the file of a job's n-th picture or video that came inline; a folder for each job would double its inodes."""
    return f"inline/{job_id}-{n}"


class Blobs:
    """Stores files whole or not at all."""

    def __init__(self, url: str, *, min_free_bytes: int = 0) -> None:
        """Open the place; a folder is made if it is missing.

        Args:
            url: a folder or s3://.
            min_free_bytes: a folder's disk keeps so much free; it may be Redis's disk, too.
        """
        self._min_free_bytes = min_free_bytes
        self._folder: Path | None = None
        self._disk = Convoy(_in_thread)
        self._slow_until = 0.0
        if "://" in url:
            self._store: ObjectStore = from_url(url)
        else:
            self._folder = Path(url).expanduser()
            self._store = LocalStore(self._folder, mkdir=True, automatic_cleanup=True)

    async def put(self, name: str, chunks: AsyncIterator[bytes]) -> tuple[int, str, bytes]:
        """Store a file as it arrives, in bounded memory.

        Returns:
            Its length in bytes, its sha256 in hex, and its first bytes for sniffing.

        Raises:
            StorageFull: the disk has no room for it.
        """
        digest, n_bytes, head = hashlib.sha256(), 0, b""

        async def watched() -> AsyncIterator[bytes]:
            nonlocal n_bytes, head
            async for chunk in chunks:
                self._check_room(len(chunk))
                digest.update(chunk)
                n_bytes += len(chunk)
                if len(head) < HEAD_BYTES:
                    head = (head + chunk)[:HEAD_BYTES]
                yield chunk

        await self._put(name, watched())
        return n_bytes, digest.hexdigest(), head

    async def put_bytes(self, name: str, data: bytes) -> None:
        """Store a small file under a name that nobody knows yet.

        Raises:
            StorageFull: the disk has no room for it.
        """
        self._check_room(len(data))
        await self._put(name, data)

    async def _put(self, name: str, data: bytes | AsyncIterator[bytes]) -> None:
        try:
            if self._folder and isinstance(data, bytes):
                await self._write(self._folder, name, data)
            else:
                await obstore.put_async(self._store, name, data)
        except (BaseError, OSError):
            self._check_room(LEAST_ROOM_BYTES)  # whoever else writes to the disk may have filled it meanwhile
            raise

    async def _write(self, folder: Path, name: str, data: bytes) -> None:
        began = time.monotonic()
        if len(data) > AT_ONCE_BYTES or began < self._slow_until:
            await self._disk.send(partial(_write, folder, name, data))
            return
        _write(folder, name, data)
        if time.monotonic() - began > SLOW_S:
            self._slow_until = began + SLOW_FOR_S

    def _check_room(self, n_bytes: int) -> None:
        if self._folder and shutil.disk_usage(self._folder).free < self._min_free_bytes + n_bytes:
            raise StorageFull(retry_after_s=60)

    async def get(self, name: str) -> bytes:
        """Read a file.

        Raises:
            MediaUnreadable: it is no longer there.
        """
        try:
            if self._folder:  # obstore comes back from its own threads twice, which costs a worker three times as much
                return await asyncio.to_thread(_read, self._folder, name)
            answer = await obstore.get_async(self._store, name)
            return bytes(await answer.bytes_async())
        except (NotFoundError, FileNotFoundError) as error:
            msg = "the stored picture or video is no longer there; submit it again"
            raise MediaUnreadable(msg) from error

    async def size(self, name: str) -> int:
        """Tell a file's length in bytes.

        Raises:
            MediaUnreadable: it is no longer there.
        """
        try:
            return int((await obstore.head_async(self._store, name))["size"])
        except (NotFoundError, FileNotFoundError) as error:
            msg = "the stored file is no longer there"
            raise MediaUnreadable(msg) from error

    async def read(self, name: str, start: int, n_bytes: int) -> bytes:
        """Read a part of a file.

        Raises:
            MediaUnreadable: it is no longer there.
        """
        try:
            return bytes(await obstore.get_range_async(self._store, name, start=start, length=n_bytes))
        except (NotFoundError, FileNotFoundError) as error:
            msg = "the stored file is no longer there"
            raise MediaUnreadable(msg) from error

    async def stream(self, name: str, *, chunk_bytes: int = 2**20) -> AsyncIterator[bytes]:
        """Give a file piece by piece.

        Raises:
            MediaUnreadable: it is no longer there.
        """
        n_bytes = await self.size(name)
        for start in range(0, n_bytes, chunk_bytes):
            yield await self.read(name, start, min(chunk_bytes, n_bytes - start))

    async def delete(self, *names: str) -> None:
        """Remove files; those already gone are no error."""
        if self._folder and names:
            await asyncio.to_thread(_remove, self._folder, names)
        elif names:
            await obstore.delete_async(self._store, list(names))  # S3 removes 1,000 at a time, and minds none that is gone

    async def sweep(self, *, older_than_s: float) -> int:
        """Remove every file stored longer ago than that, and say how many."""
        before, old = datetime.now(UTC) - timedelta(seconds=older_than_s), []
        async for batch in obstore.list(self._store):
            old += [entry["path"] for entry in batch if entry["last_modified"] < before]
        await self.delete(*old)
        return len(old)


async def _in_thread(calls: list[Callable[[], Any]]) -> Sequence[Any]:
    return await asyncio.to_thread(_make_all, calls)


def _make_all(calls: list[Callable[[], Any]]) -> Sequence[Any]:
    answers: list[Any] = []
    for call in calls:
        try:
            answers.append(call())
        except Exception as error:  # noqa: BLE001  # its caller gets it
            answers.append(error)
    return answers


def _path(folder: Path, name: str) -> str:
    if ".." in name.split("/") or "\0" in name:
        msg = "a name is no path that leads out of the folder"
        raise ValueError(msg)
    return f"{folder}/{name}"


def _read(folder: Path, name: str) -> bytes:
    with open(_path(folder, name), "rb") as file:  # noqa: PTH123
        return file.read()


def _remove(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        path = _path(folder, name)
        with suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108  # a fifth of pathlib's time
        with suppress(OSError):  # a folder that others are in stays; so do the few at the top, which would soon be made again
            for _ in range(name.strip("/").count("/") - 1):
                os.rmdir(path := os.path.dirname(path))  # noqa: PTH106, PTH120


def _write(folder: Path, name: str, data: bytes) -> None:
    path = _path(folder, name)  # not one to be renamed at the end: nobody is told it before, and that took half as long again
    file = _open_new(path)
    try:
        with file:
            file.write(data)
    except OSError:
        Path(path).unlink(missing_ok=True)
        raise


def _open_new(path: str) -> BinaryIO:
    """Open a file in a folder that may not be there yet, or go at this moment: whoever deletes the last file takes it along."""
    for _ in range(FOLDER_TRIES):
        try:
            return open(path, "wb")  # noqa: PTH123
        except FileNotFoundError:
            with suppress(FileNotFoundError):
                os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120  # half of pathlib's time
    return open(path, "wb")  # noqa: PTH123
