"""One file's way through the service: upload it, submit its job under a key that is always the same, wait, clear it away."""

from __future__ import annotations

import asyncio
import hashlib
import os
from base64 import b64encode
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sightline.client import AsyncClient, AsyncJob, File, ServiceError
from sightline.client.aio import UPLOADS
from sightline.client.core import is_video, pause_s
from sightline.client.ends import Ends
from sightline.client.files import FileChanged, SteadyFile
from sightline.describe.flags import fields_of, flags_of
from sightline.describe.question import Question
from sightline.describe.row import Row
from sightline.describe.sources import facts_of
from sightline.screen import Failure

T = TypeVar("T")
#: What is asked of a file, and the name of its content.
Request = tuple[dict[str, Any], str]
#: A file up to this size travels in its job's request, which spares the requests that upload and delete it.
INLINE_BYTES = 2**18
SENT_AT_ONCE = 8  #: requests with a file in them
#: Codes that say something of the file; every other refusal would meet all files alike, and ends the run.
OF_FILE = frozenset(
    {
        "unsupported_media",
        "media_unreadable",
        "media_unreachable",
        "media_too_large",
        "body_too_large",
        "address_refused",
        "bad_media_reference",
        "upload_unknown",
        "file_in_use",
        "request_timeout",
    }
)
#: Codes of a service that is busy and says so: it is asked again for as long as it takes.
BUSY = frozenset({"queue_full", "rate_limit_exceeded", "too_many_connections", "storage_full", "model_not_ready"})
#: Jobs under the keys of one file that may have ended badly before this run.
RUNS = 8
HASHED_AT_ONCE = 4


class EmptyFile(OSError):
    """A file has no content."""

    code = "empty_file"

    def __init__(self) -> None:
        """Say so."""
        super().__init__(0, "the file is empty")


def ends_all(error: ServiceError) -> bool:
    """Say whether an error would meet every other file as well."""
    is_ours = error.status is not None and 400 <= error.status < 500  # noqa: PLR2004  # HTTP's classes
    return error.passes or error.is_lost or (is_ours and error.code not in OF_FILE)


class Asker:
    """Asks one question about one file after another, many at a time."""

    def __init__(self, client: AsyncClient, ends: Ends, question: Question, *, series: str) -> None:
        """Use an open client.

        Args:
            client: of the service.
            ends: hears of the ends of jobs.
            question: what is asked.
            series: a part of every key, see :class:`sightline.describe.row.Row`.
        """
        self._client, self._ends, self._question, self._series = client, ends, question, series
        self._hashing, self._sending = asyncio.Semaphore(HASHED_AT_ONCE), asyncio.Semaphore(SENT_AT_ONCE)
        self._uploading = asyncio.Semaphore(UPLOADS)
        self._clearing = set[asyncio.Task[None]]()
        self.in_flight: dict[str, AsyncJob] = {}  #: jobs that were sent and have not ended
        self.sent, self.has_tried = 0, False

    async def sha256(self, place: bytes) -> str:
        """Name a file's content.

        Raises:
            OSError: it cannot be read.
        """
        async with self._hashing:
            return await asyncio.to_thread(_digest, place)

    async def ask(self, row: Row, place: bytes) -> Row:
        """Have one file described, and fill its row.

        Raises:
            ServiceError: it is refused.
            OSError: it cannot be read.
        """
        path = _readable(row.path)
        if not place:
            return await self._ask_address(row, path)
        if (await asyncio.to_thread(facts_of, place)).st_size <= INLINE_BYTES:
            return await self._filled(row, partial(self._inline, row, place))
        upload = await self._patiently(partial(self._upload_for, row, place))
        row.sha256 = upload.sha256  # of what was sent: the file may have changed since it was looked at
        try:
            body = self._question.body(*_sorted([(upload.id, upload.is_video)]), path)
            return await self._filled(row, _always(body, upload.sha256))
        finally:
            self.clear([upload])

    async def _ask_address(self, row: Row, path: str) -> Row:
        """Ask about what its name says that it is, and, where it turns out to be no such thing, about the other kind."""
        guess = is_video(row.path)
        for moves in (guess, not guess):
            body = self._question.body(*_sorted([(row.path, moves)]), path)
            content = row.path if moves == guess else f"{row.path} as the other kind"
            row.error = None
            row = await self._filled(row, _always(body, content))
            if not row.error or row.error["code"] != "unsupported_media":
                break
        return row

    async def _upload_for(self, row: Row, place: bytes) -> File:
        async with self._uploading:
            with await asyncio.to_thread(_opened, row, place) as file:
                return await self._client.upload(file)

    async def _inline(self, row: Row, place: bytes) -> Request:
        """Write a request that has its file in it."""
        data = await asyncio.to_thread(_read, row, place)
        row.sha256 = hashlib.sha256(data).hexdigest()  # of what is sent, as above
        reference = f"data:;base64,{b64encode(data).decode()}"
        return self._question.body([], [], _readable(row.path), files=[reference]), row.sha256

    async def ask_together(self, row: Row, places: list[tuple[str, bytes]]) -> Row:
        """Have several files described in one job."""
        body, uploads = await self.body_of(row, places)
        try:
            return await self._filled(row, _always(body, str(row.sha256)))
        finally:
            self.clear(uploads)

    async def body_of(self, row: Row, places: list[tuple[str, bytes]]) -> tuple[dict[str, Any], list[File]]:
        """Upload several files and write the request for one job about them, in their order.

        Raises:
            Failure: one of them is refused.
        """
        uploads, references = list[File](), list[tuple[str, bool]]()
        for path, place in places:
            if place:
                uploads.append(await self._upload(path, place))
                references.append((uploads[-1].id, uploads[-1].is_video))
            else:
                references.append((path, is_video(path)))
        row.sha256 = hashlib.sha256("".join(upload.sha256 for upload in uploads).encode()).hexdigest()
        return self._question.body(*_sorted(references), _readable(row.path)), uploads

    async def _upload(self, path: str, place: bytes) -> File:
        """Upload one of several files; an error names it."""
        try:
            return await self._client.upload(Path(os.fsdecode(place)))
        except ServiceError as error:
            if ends_all(error):
                raise
            raise Failure(f"{path}: {error}") from error
        except OSError as error:
            raise Failure(f"{path}: {error.strerror}") from error

    async def _filled(self, row: Row, make: Callable[[], Awaitable[Request]]) -> Row:
        return self.fill(row, await self._job(row, make))

    def fill(self, row: Row, job: AsyncJob) -> Row:
        """Write into a row what its job came to."""
        row.job, row.model, row.status = job.id, job.get("model"), job.status
        if job.status != "succeeded":
            error = job.error or ServiceError(f"the job was {job.status}", job.status)
            row.error = {"code": error.code, "message": error.message}
            return row
        row.finish_reason, row.usage = job.finish_reason, job.usage
        schema = self._question.schema is not None
        row.flags = flags_of(job.text, prompt=self._question.prompt, finish_reason=row.finish_reason, schema=schema)
        row.text, row.fields = self._question.trimmed(job.text), fields_of(job.text) if schema else None
        return row

    async def _job(self, row: Row, make: Callable[[], Awaitable[Request]]) -> AsyncJob:
        """Give the ended job of a file: that of an earlier run that was killed, or a new one.

        Args:
            row: of the file.
            make: writes its request; called for each try, so that nobody who waits has a file in memory.
        """
        first = row.run
        for row.run in range(first, first + RUNS):
            try:
                job = await self._patiently(partial(self._submit, row, make))
                if job.is_final and job.status != "succeeded":
                    continue  # an earlier run's, which is not what this one is for
                self.sent += 1
                self.in_flight[job.id] = job
                try:
                    return await self._ends.wait(job)
                finally:
                    if job.is_final:
                        del self.in_flight[job.id]
            except ServiceError as error:
                if error.code not in {"idempotency_key_reused", "gone", "not_found"}:
                    raise
        raise ServiceError("each job under this file's keys had ended badly before", "job_failed")

    async def _submit(self, row: Row, make: Callable[[], Awaitable[Request]]) -> AsyncJob:
        async with self._sending:
            body, content = await make()
            key = self._question.key(_readable(row.path), content, run=row.run, series=self._series)
            self.has_tried = True
            return await self._client.submit(body, idempotency_key=key)

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask a service that is busy again and again."""
        tries = 0
        while True:
            try:
                return await ask()
            except ServiceError as error:
                if error.code not in BUSY:
                    raise
                await asyncio.sleep(error.retry_after_s or pause_s(tries))
                tries += 1

    def clear(self, uploads: list[File]) -> None:
        """Delete uploads that have been read, or never will be; nobody waits for that."""
        for upload in uploads:
            task = asyncio.create_task(self._delete(upload))
            self._clearing.add(task)
            task.add_done_callback(self._clearing.discard)

    async def _delete(self, upload: File) -> None:
        with suppress(ServiceError):  # it expires by itself
            await self._client.request("DELETE", f"/v1/files/{upload.id}")

    async def settle(self) -> None:
        """Wait until what is read is cleared away."""
        if self._clearing:
            await asyncio.wait(self._clearing, timeout=5)


def _sorted(references: list[tuple[str, bool]]) -> tuple[list[str], list[str]]:
    images = [reference for reference, moves in references if not moves]
    return images, [reference for reference, moves in references if moves]


def _always(body: dict[str, Any], content: str) -> Callable[[], Awaitable[Request]]:
    async def give() -> Request:  # it waits for nothing
        return body, content

    return give


def _opened(row: Row, place: bytes) -> SteadyFile:
    """Open a file that is to be sent, and note in its row what it is by now."""
    file = SteadyFile(place)
    row.size_bytes, row.modified_at = file.facts.st_size, file.facts.st_mtime
    if not row.size_bytes:
        file.close()
        raise EmptyFile
    return file


def _read(row: Row, place: bytes) -> bytes:
    with _opened(row, place) as file:
        if file.facts.st_size > INLINE_BYTES:  # it was less a moment ago
            raise FileChanged
        return file.read()


def _digest(place: bytes) -> str:
    with SteadyFile(place) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _readable(path: str) -> str:
    """Give a path as text that can be sent; bytes that are not UTF-8 show as escapes."""
    return path.encode("utf-8", "backslashreplace").decode()
