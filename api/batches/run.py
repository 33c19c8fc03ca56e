"""One batch, from wherever it stands to its end.

The input is read line by line, a window of lines is in flight, and results go to files part by part, so a batch of any
length needs the memory of a window.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import structlog
from redis.exceptions import RedisError

from api.batches.input import BadInput, BatchInput, Request, parse_line
from api.batches.line_jobs import FIRST_PAUSE_S, LONGEST_PAUSE_S, STOPPED, Lines
from api.batches.output import BatchOutput, line_result
from api.batches.storage import Storage
from api.batches.waits import Waits
from api.batches.window import LOOK_EVERY_S, Window
from api.services import Services
from shared.aio import cancel_all
from shared.errors import QuotaExceeded, SightlineError
from shared.store.batch_leases import Lease, LeaseLost, Line, Status, Taken
from shared.store.batches import Batch

log = structlog.get_logger()

MAX_MODEL_NAME = 200  #: characters kept of what a line asks for; only a name that is served gets an answer
_GONE = {"code": "output_gone", "message": "Results were removed from the storage.", "line": None, "param": None}


class BatchRun:
    """Runs a batch under a lease. Whatever it leaves in flight when the lease is lost is the next runner's."""

    def __init__(self, services: Services, lease: Lease, batch: Batch, submits: asyncio.Semaphore) -> None:
        """Take it up.

        Args:
            services: of this process.
            lease: the right to run it.
            batch: its record, as read under the lease.
            submits: lets in so many lines, of all batches, as may be in memory at a time.
        """
        self._services, self._batches, self._lease, self._batch = services, services.batches, lease, batch
        self._in_flight = set[asyncio.Task[None]]()
        self._failure = asyncio.get_running_loop().create_future()
        self._errors: list[dict[str, Any]] = []  #: why it fails
        self._waits = Waits(services.batches, lease, batch)
        self._storage = Storage(self._waits)
        max_line_bytes = services.settings.max_body_bytes
        self._input = BatchInput(services.blobs, self._storage, batch.input_file_id, max_line_bytes=max_line_bytes)
        self._output = BatchOutput(services, self._storage, lease, batch)
        self._window = Window(services.batches, lease, services.settings.lease_s)
        self._lines = Lines(
            *(services, lease, batch),
            window=self._window,
            storage=self._storage,
            source=self._input,
            output=self._output,
            submits=submits,
        )

    async def run(self) -> None:
        """Validate, run, write out; each step is skipped that was done before.

        Raises:
            LeaseLost: the batch is another runner's by now.
            RedisError: Redis is away.
        """
        await self._window.renew()
        self._keeping = asyncio.create_task(self._window.keep())
        self._keeping.add_done_callback(self._note_failure)
        working = asyncio.create_task(self._work())
        try:
            done, _ = await asyncio.wait({working, self._failure}, return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                ended.result()
        finally:
            self._failure.cancel()
            await cancel_all({self._keeping, working, *self._in_flight})

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and not self._failure.done() and (error := task.exception()):
            self._failure.set_exception(error)

    async def _work(self) -> None:
        try:
            if self._batch.status == "validating":
                await self._validate()
            await self._run_lines()
        except BadInput as error:
            self._errors = error.errors
        except (RedisError, LeaseLost):
            raise
        except Exception:  # the seam: a batch that cannot be run ends, and what it has is kept
            log.exception("batch.crashed")
            self._errors = [{"code": "internal", "message": SightlineError().message, "line": None, "param": None}]
        await self._end_lines()
        await self._write_out()

    async def _validate(self) -> None:
        n_lines = await self._input.check()
        log.info("batch.began", lines=n_lines)
        await self._batches.note(self._lease, total=n_lines)
        await self._batches.move(self._lease, "in_progress")

    # --- lines ---

    async def _run_lines(self) -> None:
        """Take up the lines that another runner left in flight, then take new ones."""
        batch = self._batch = await self._batches.get(self._batch.id)
        for line in await self._batches.flight(batch.id):
            self._begin(line, None)
        if batch.status != "in_progress":
            return
        async with aclosing(self._input.read(batch.offset, batch.line)) as lines:
            async for line, data in lines:
                request = parse_line(data, line.number)
                model = str(request.body.get("model"))[:MAX_MODEL_NAME]
                if not await self._take(replace(line, custom_id=request.custom_id, model=model), request):
                    return

    async def _take(self, line: Line, request: Request) -> bool:
        """Take a line as soon as there is room for it; says whether there is a next one to be taken."""
        settings, pause_s = self._services.settings, FIRST_PAUSE_S
        while not self._window.stopping:
            if len(self._in_flight) >= settings.batch_window:
                await asyncio.wait(self._in_flight, timeout=LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
                continue
            await self._output.flush_due()
            taken = await self._take_now(line)
            if taken == "taken":
                await self._begin(line, request).wait()
            if taken != "full":
                return taken == "taken"
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return False

    async def _take_now(self, line: Line) -> Taken:
        try:
            taken = await self._batches.take(self._lease, line, self._batch.job_id(line), self._services.settings)
        except QuotaExceeded as error:
            if await self._waits.because("waiting_for_quota", f"{error.message}; the batch goes on by itself"):
                log.info("batch.waits", reason=error.message)
            return "full"
        if taken == "taken" and await self._waits.no_longer("waiting_for_quota"):
            log.info("batch.goes_on")
        return taken

    def _begin(self, line: Line, request: Request | None) -> asyncio.Event:
        """Run a line in flight, whose request may be at hand; the event is set when it has a place among the submits."""
        entered = asyncio.Event()
        task = asyncio.create_task(self._lines.run(line, request, entered))
        self._in_flight.add(task)
        task.add_done_callback(self._in_flight.discard)
        task.add_done_callback(self._note_failure)
        return entered

    async def _end_lines(self) -> None:
        """Wait for the lines in flight; where the batch stops, drop them and their jobs."""
        while self._in_flight:
            if self._window.stopping:
                for task in self._lines.waiting:
                    task.cancel()
            await asyncio.wait(self._in_flight, timeout=LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
            await self._output.flush_due()
        if self._window.stopping:
            for line in await self._batches.flight(self._batch.id):
                await self._lines.drop(line, self._window.stopping)

    # --- the end ---

    async def _write_out(self) -> None:
        end: Status = "failed" if self._errors else self._window.stopping or "completed"
        if end == "completed" and await self._batches.move(self._lease, "finalizing") == "cancelling":
            end = "cancelled"
        try:
            files = await self._output.write({} if end not in STOPPED else {"error": lambda: self._rest(end)})
        except BadInput as error:  # it went between its last line and the end
            self._errors, end = error.errors, "failed"
            files = await self._output.write({})
        if self._output.is_short:
            self._errors, end = [_GONE], "failed"
        self._keeping.cancel()  # the lease is long enough for the last step, which ends it
        errors = {"errors": json.dumps(self._errors, ensure_ascii=False)} if self._errors else {}
        await self._output.end(end, files, **errors)
        log.info("batch.ended", status=end)

    async def _rest(self, end: Status) -> AsyncIterator[bytes]:
        """Give the lines of the error file that never were results: those of the input that were not begun."""
        batch = await self._batches.get(self._batch.id)
        async with aclosing(self._input.read(batch.offset, batch.line)) as lines:
            async for line, data in lines:
                result = line_result(batch, line.number, parse_line(data, line.number).custom_id, error=STOPPED[end])
                yield (json.dumps(result, ensure_ascii=False) + "\n").encode()
