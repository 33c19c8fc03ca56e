"""Uploads and inline media by reference: a folder, or s3://; jobs and messages carry only names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from shared.errors import MediaUnreadable, StorageUnavailable
from shared.folder import Folder
from shared.media_types import HEAD_BYTES
from shared.storage_errors import storage_error

if TYPE_CHECKING:  # names for its types alone
    from obstore.store import ClientConfig, RetryConfig

#: Pieces of a file that is read part by part. Each is a request of its own at an object store.
FOLDER_PIECE_BYTES, S3_PIECE_BYTES = 2**20, 4 * 2**20
NAMES_AT_ONCE = 500
#: Clients wait behind each call: a store that is down says so within seconds, a silent one after its read_timeout.
S3_RETRIES: RetryConfig = {"max_retries": 3, "retry_timeout": timedelta(seconds=10)}
S3_CLIENT = {"connect_timeout": "3s", "read_timeout": "15s", "timeout": "5m"}
#: What operators say of the connection in AWS_* variables; obstore reads none of them where it is given others.
S3_CLIENT_NAMES = (
    *S3_CLIENT,
    "allow_http",
    "allow_invalid_certificates",
    "proxy_url",
    "proxy_ca_certificate",
    "proxy_excludes",
)


def upload_name(file_id: str) -> str:
    """Name the file of an upload."""
    return f"uploads/{file_id}"


def inline_name(job_id: str, n: int) -> str:
    """Name the file of a job's n-th picture or video that came inline; a folder for each job would double its inodes."""
    return f"inline/{job_id}-{n}"


class Blobs:
    """Stores files whole or not at all.

    Every method raises StorageUnavailable where the place cannot be reached, and those that write StorageFull where it has no
    room. A folder that vanished is not made again: whoever mounts it finds it as it was.
    """

    def __init__(self, url: str, *, min_free_bytes: int = 0, make: bool = True) -> None:
        """Open the place.

        Args:
            url: a folder or s3://.
            min_free_bytes: a folder's disk keeps so much free; it may be Redis's disk, too.
            make: a folder is made if it is missing. Workers do not: where it is missing there, it is not the gateway's.
        """
        self._folder = None if "://" in url else Folder(Path(url).expanduser(), min_free_bytes=min_free_bytes)
        self._piece_bytes = FOLDER_PIECE_BYTES if self._folder else S3_PIECE_BYTES
        self._place = str(self._folder.path) if self._folder else url.partition("?")[0]
        self._url = url
        if self._folder and make:
            self._folder.path.mkdir(parents=True, exist_ok=True)

    @cached_property
    def _store(self) -> ObjectStore:
        if self._folder:
            return LocalStore(self._folder.path, automatic_cleanup=True)
        if self._url.startswith("s3"):
            return from_url(self._url, client_options=_client_options(), retry_config=S3_RETRIES)
        return from_url(self._url)

    @contextmanager
    def _calling(self, reading: str | None = None) -> Iterator[None]:
        """Turn whatever the disk or the store says into one of our errors; only who reads a file can find it missing."""
        try:
            yield
        except FileNotFoundError as error:  # obstore's NotFoundError is one
            if reading is None or not self._is_gone(reading, error):
                raise storage_error(error, self._place) from error
            msg = "the stored file is no longer there; submit it again"
            raise MediaUnreadable(msg) from error
        except (BaseError, OSError) as error:
            raise storage_error(error, self._place) from error

    def _is_gone(self, name: str, missing: FileNotFoundError) -> bool:
        """Tell a file that is gone from a place that is away, or was: it may have come back since."""
        if self._folder:
            return self._folder.path.is_dir() and not (self._folder.path / name).exists()
        return "NoSuchBucket" not in str(missing)

    async def put(self, name: str, chunks: AsyncIterator[bytes]) -> tuple[int, str, bytes]:
        """Store a file as it arrives, in bounded memory; what ``chunks`` raises comes through.

        Returns:
            Its length in bytes, its sha256 in hex, and its first bytes for sniffing.

        Raises:
            StorageFull: the disk has no room for it.
        """
        digest, n_bytes, head = hashlib.sha256(), 0, b""
        theirs: BaseException | None = None

        async def watched() -> AsyncIterator[bytes]:
            nonlocal n_bytes, head, theirs
            while True:
                try:
                    chunk = await anext(chunks)
                except StopAsyncIteration:
                    return
                except BaseException as error:
                    theirs = error
                    raise
                self._check_room(len(chunk))
                digest.update(chunk)
                n_bytes += len(chunk)
                if len(head) < HEAD_BYTES:
                    head = (head + chunk)[:HEAD_BYTES]
                yield chunk

        with self._calling():
            self._check_room(0)
            try:
                await obstore.put_async(self._store, name, watched())
            except (BaseError, OSError):
                if theirs is None:
                    raise
        if theirs is not None:
            raise theirs
        return n_bytes, digest.hexdigest(), head

    async def put_bytes(self, name: str, data: bytes) -> None:
        """Store a small file under a name that nobody knows yet.

        Raises:
            StorageFull: the disk has no room for it.
        """
        with self._calling():
            self._check_room(len(data))
            if self._folder:
                await self._folder.write(name, data)
            else:
                await obstore.put_async(self._store, name, data)

    def _check_room(self, n_bytes: int) -> None:
        if self._folder:
            self._folder.check_room(n_bytes)

    async def get(self, name: str) -> bytes:
        """Read a file.

        Raises:
            MediaUnreadable: it is no longer there.
        """
        with self._calling(name):
            if self._folder:  # obstore comes back from its own threads twice, which costs a worker three times as much
                return await self._folder.read(name)
            answer = await obstore.get_async(self._store, name)
            return bytes(await answer.bytes_async())

    async def size(self, name: str) -> int:
        """Tell a file's length in bytes.

        Raises:
            MediaUnreadable: it is no longer there.
        """
        with self._calling(name):
            return int((await obstore.head_async(self._store, name))["size"])

    async def read(self, name: str, start: int, n_bytes: int) -> bytes:
        """Read a part of a file.

        Raises:
            MediaUnreadable: it is no longer there.
        """
        with self._calling(name):
            return bytes(await obstore.get_range_async(self._store, name, start=start, length=n_bytes))

    async def stream(self, name: str, n_bytes: int) -> AsyncIterator[bytes]:
        """Give a file piece by piece.

        Args:
            name: which.
            n_bytes: its length.

        Raises:
            MediaUnreadable: it is no longer there.
        """
        for start in range(0, n_bytes, self._piece_bytes):
            yield await self.read(name, start, min(self._piece_bytes, n_bytes - start))

    async def delete(self, *names: str) -> None:
        """Remove files; those already gone are no error."""
        with self._calling():
            if self._folder and names:
                await self._folder.remove(names)
            elif names:
                await obstore.delete_async(self._store, list(names))  # S3 removes 1,000 at a time, and minds none that is gone

    async def discard(self, *names: str) -> bool:
        """Remove files that nobody needs any more. False where the place is away: then they are left to the sweep."""
        try:
            await self.delete(*names)
        except StorageUnavailable:
            return False
        return True

    async def names(self, top: str) -> AsyncIterator[list[str]]:
        """List the files under a name, some hundred at a time; in a folder also those that were never finished."""
        with self._calling():
            if self._folder:
                async with aclosing(self._folder.names(top, NAMES_AT_ONCE)) as pages:
                    async for page in pages:
                        yield page
            else:
                async for batch in obstore.list(self._store, top, chunk_size=NAMES_AT_ONCE):
                    yield [entry["path"] for entry in batch]


def _client_options() -> ClientConfig:
    given = {name: os.environ[f"AWS_{name.upper()}"] for name in S3_CLIENT_NAMES if f"AWS_{name.upper()}" in os.environ}
    return cast("ClientConfig", S3_CLIENT | given)
