"""A run over many files: found while others are described, each with one row, until all have one or somebody stops it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace

from sightline.client import AsyncClient, ServiceError
from sightline.client.ends import Ends
from sightline.client.many import Room, pour
from sightline.describe.asking import Asker, EmptyFile, ends_all
from sightline.describe.file_index import Entry, FileIndex
from sightline.describe.outputs import Outputs
from sightline.describe.progress import Display, Tally
from sightline.describe.question import Question
from sightline.describe.row import Row
from sightline.describe.sources import Release, Sources, facts_of
from sightline.describe.watching import LOOK_EVERY_S, Watcher

SHOW_EVERY_S = 0.1
#: The service is asked twice whether it has a worker: one that has just become ready says so within a second.
NOTICE_S = 1.5


@dataclass(frozen=True)
class Order:
    """What a run is to do.

    Args:
        question: what is asked of each file.
        retry_failed: files whose row is a failure are described again.
        retry_flagged: and those whose text is flagged.
        watch: goes on with files that appear.
        window: jobs in flight; left out: what the workers have places for.
    """

    question: Question
    retry_failed: bool = False
    retry_flagged: bool = False
    watch: bool = False
    window: int | None = None


class Run:
    """One run; see :meth:`run`."""

    def __init__(self, client: AsyncClient, order: Order, sources: Sources, outputs: Outputs, display: Display) -> None:
        """Prepare; nothing is sent yet."""
        self._client, self._order, self._sources = client, order, sources
        self._outputs, self._display = outputs, display
        self.tally: Tally = display.tally
        self._index: FileIndex = outputs.index
        self._leaders: dict[str, asyncio.Future[Row | None]] = {}
        self._found_all, self._has_seen_all, self._trouble = threading.Event(), False, list[Exception]()
        self._asker: Asker | None = None
        self._task: asyncio.Task[object] | None = None
        self.is_stopped = False

    @property
    def in_flight(self) -> int:
        """How many jobs were sent and have not ended."""
        return len(self._asker.in_flight) if self._asker else 0

    def may_go_on(self, error: BaseException) -> bool:
        """Say whether the service may have jobs of this run, which this error ended."""
        is_refusal = isinstance(error, ServiceError) and error.status is not None and error.status < 500  # noqa: PLR2004
        return self._asker is not None and self._asker.has_tried and not (is_refusal and not self._asker.sent)

    @property
    def is_complete(self) -> bool:
        """Whether all files were found, and each has its row."""
        return self._has_seen_all and not self.tally.left

    async def run(self) -> None:
        """Describe all files; Ctrl-C lets those in flight end, a second one does not.

        Raises:
            ServiceError: the service is away, or refuses what would be asked of every file.
            Failure: an output cannot be written, or a source cannot be read.
            KeyboardInterrupt: the second Ctrl-C.
        """
        self._task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
            loop.add_signal_handler(signal.SIGHUP, self._hang_up, [fd for fd in (1, 2) if os.isatty(fd)])
        await self._client.models()  # who cannot be asked, or wants a key, says so before anything is sent
        threading.Thread(target=self._look, daemon=True, name="looking").start()
        showing = asyncio.create_task(self._show())
        warning = asyncio.create_task(self._warn_of_no_worker())
        try:
            async with Ends(self._client) as ends:
                self._asker = Asker(self._client, ends, self._order.question, series=self._outputs.series)
                async with aclosing(pour(self._todo(), self._work, Room(self._client, self._order.window))) as results:
                    async for entry, row, is_copy in results:
                        if row is None:
                            self.tally.before += 1
                            continue
                        self._outputs.take(entry, row)
                        self.tally.count(row, is_copy=is_copy)
                await self._asker.settle()
            if self._trouble:
                raise self._trouble[0]
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            self._display.update("done")
            for task in (showing, warning):
                task.cancel()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _hang_up(self, terminals: list[int]) -> None:
        """End as after one Ctrl-C when the terminal is closed; nobody reads on, and writing to it would be an error."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for fd in terminals:
            os.dup2(nowhere, fd)
        os.close(nowhere)
        if not self.is_stopped:
            self._interrupt()

    def _interrupt(self) -> None:
        if self.is_stopped and self._task:
            self._task.cancel()
            return
        self.is_stopped = True
        self._display.note(f"finishing what is in flight ({self.in_flight} jobs); Ctrl-C again to stop now")

    # --- what is to be done ---

    def _look(self) -> None:
        """Find the files, in a thread: folders may be slow, and standard input slower."""
        watcher = Watcher() if self._order.watch else None
        try:
            while True:
                for part in self._sources.find():
                    if self.is_stopped:
                        return
                    if isinstance(part, Release):
                        self._index.release(is_sorted=part is Release.SORTED)
                        self.tally.total = self._index.count()
                    else:
                        self._index.find(watcher.settled(part) if watcher else ((found, "") for found in part))
                if not watcher:
                    self._has_seen_all = True
                    return
                time.sleep(LOOK_EVERY_S)
        except Exception as error:  # noqa: BLE001  # it is raised where the run ends
            self._trouble.append(error)
        finally:
            self._found_all.set()

    async def _todo(self) -> AsyncIterator[Entry]:
        """Give the files that have no row, in the order in which they were found."""
        last = 0
        while not self.is_stopped:
            all_found = self._found_all.is_set()
            page = self._index.after(last)
            for entry in page:
                if self.is_stopped:
                    return
                last = entry.n
                if self._is_done(entry):
                    self.tally.before += 1
                    self.tally.failed_before += entry.status not in {None, "succeeded"}
                else:
                    self._outputs.expect(entry)
                    yield entry
            if not page and all_found:
                return
            if not page:
                await asyncio.sleep(SHOW_EVERY_S)

    def _is_done(self, entry: Entry) -> bool:
        """Say whether a file has the row and the text beside it that it should have."""
        if entry.status is None:
            return self._outputs.has_sidecar_only(entry)
        if self._is_again(entry):
            return False
        if entry.place:
            try:
                facts = facts_of(entry.place)
            except OSError:
                return True  # it has its row, and is gone
            if entry.sha256 is None:  # it could not be read, or was empty: it is done while that is so
                return not (facts.st_size and os.access(entry.place, os.R_OK))
            if entry.bytes is not None and (facts.st_size, facts.st_mtime) != (entry.bytes, entry.modified_at):
                return False
        return entry.status != "succeeded" or self._outputs.has_sidecar(entry)

    def _is_again(self, entry: Entry) -> bool:
        failed = entry.status not in {None, "succeeded"}
        return (failed and self._order.retry_failed) or (entry.is_odd and self._order.retry_flagged)

    # --- how it is done ---

    async def _work(self, entry: Entry) -> tuple[Entry, Row | None, bool]:
        """Give a file's row, and whether it is a copy of another's; no row where the one that it has still holds."""
        row = Row(entry.path, request=self._order.question.fingerprint, series=self._outputs.series)
        try:
            if entry.place:
                facts = facts_of(entry.place)
                row.size_bytes, row.modified_at = facts.st_size, facts.st_mtime
                self._outputs.check(entry)
                if not facts.st_size:
                    raise EmptyFile
                row.sha256 = await self._hash(entry)
            return await self._described(entry, row)
        except (ServiceError, OSError) as error:
            if isinstance(error, ServiceError) and ends_all(error):
                raise
            message = str(error) if isinstance(error, ServiceError) else error.strerror or str(error)
            if isinstance(error, OSError):
                row.sha256 = None  # nothing was asked of it
            row.status, row.error = "failed", {"code": getattr(error, "code", "file"), "message": message}
            return entry, row, False

    async def _hash(self, entry: Entry) -> str:
        assert self._asker  # noqa: S101  # made before any work
        return await self._asker.sha256(entry.place)

    async def _described(self, entry: Entry, row: Row) -> tuple[Entry, Row | None, bool]:
        again = self._is_again(entry)
        if entry.sha256 == row.sha256 and entry.status is not None:
            if not again and self._outputs.has_sidecar(entry):
                return entry, None, False  # touched, and not changed
            row.run = (entry.run or 0) + again
        content = row.sha256
        if content is None:
            return entry, await self._ask(row, entry), False
        while leader := self._leaders.get(content):
            await asyncio.wait([leader])
        if (same := self._index.same(content, only_here=again)) and same.request == row.request:
            own = replace(same, path=row.path, size_bytes=row.size_bytes, modified_at=row.modified_at, run=row.run)
            return entry, own, True
        leader = self._leaders[content] = asyncio.get_running_loop().create_future()
        try:
            row = await self._ask(row, entry)
            self._index.remember(row)
        finally:
            del self._leaders[content]
            leader.set_result(None)
        return entry, row, False

    async def _ask(self, row: Row, entry: Entry) -> Row:
        assert self._asker  # noqa: S101  # made before any work
        return await self._asker.ask(row, entry.place)

    # --- what is shown ---

    async def _show(self) -> None:
        while True:
            looking = "watching" if self._order.watch else "looking"
            self._display.update("stopping" if self.is_stopped else "describing" if self._found_all.is_set() else looking)
            await asyncio.sleep(SHOW_EVERY_S)

    async def _warn_of_no_worker(self) -> None:
        said = ""
        for pause_s in (NOTICE_S, 0):
            try:
                await self._client.request("GET", "/readyz")
            except ServiceError as error:
                if error.code != "not_ready":
                    return
                said = str(error)
                await asyncio.sleep(pause_s)
            else:
                return
        self._display.note(f"{said}; the jobs wait until one is")
