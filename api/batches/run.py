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
from functools import partial
from typing import Any

import structlog
from pydantic import ValidationError
from redis.exceptions import DataError, RedisError

from api.batches.input import BadInput, BatchInput, Request, parse_line
from api.batches.output import BatchOutput, line_result
from api.batches.storage import Storage
from api.errors import openai_error
from api.openai.chat import completion, finished_output, submit_chat
from api.openai.chat_request import ChatRequest
from api.services import Services
from api.validation import from_validation
from shared.aio import cancel_all
from shared.errors import (
    CancelledByClient,
    Gone,
    InvalidRequest,
    NotFound,
    QueueFull,
    RateLimited,
    SightlineError,
    UnsupportedParameter,
)
from shared.fields import DAY_S
from shared.jobs import Job, Priority
from shared.store.batches import Batch, Kind, Lease, LeaseLost, Line, Status

log = structlog.get_logger()

LOOK_EVERY_S = 1.0  #: for news of the batch; a lease is renewed as often, and in a third of its time at the latest
#: Jobs may start for so much longer than the batch has: what is late then is told as the batch's end, not as its own.
DEADLINE_MARGIN_S = 60
#: The pauses before a line that found no room looks again: the first is a small job's time, the last costs nothing.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
MAX_MODEL_NAME = 200  #: characters kept of what a line asks for; only a name that is served gets an answer
_STOPPED = {
    "cancelled": {"code": "batch_cancelled", "message": "The batch was cancelled before this line was done."},
    "expired": {"code": "batch_expired", "message": "The completion window ended before this line was done."},
}
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
        self._services, self._batches, self._lease, self._batch, self._submits = (
            services,
            services.batches,
            lease,
            batch,
            submits,
        )
        self._lines = set[asyncio.Task[None]]()
        self._waiting = set[asyncio.Task[None]]()  #: those of them that wait for their jobs, and may be cancelled
        self._failure = asyncio.get_running_loop().create_future()
        self._stopping: Status | None = None  #: why no more lines are taken: expired or cancelled
        self._errors: list[dict[str, Any]] = []  #: why it fails
        self._until_s = 0.0  #: the end of its window, by the loop's clock
        self._storage = Storage(services.batches, lease)
        max_line_bytes = services.settings.max_body_bytes
        self._input = BatchInput(services.blobs, self._storage, batch.input_file_id, max_line_bytes=max_line_bytes)
        self._output = BatchOutput(services, self._storage, lease, batch)

    async def run(self) -> None:
        """Validate, run, write out; each step is skipped that was done before.

        Raises:
            LeaseLost: the batch is another runner's by now.
            RedisError: Redis is away.
        """
        await self._renew()
        self._keeping = asyncio.create_task(self._keep())
        self._keeping.add_done_callback(self._note_failure)
        working = asyncio.create_task(self._work())
        try:
            done, _ = await asyncio.wait({working, self._failure}, return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                ended.result()
        finally:
            self._failure.cancel()
            await cancel_all({self._keeping, working, *self._lines})

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and not self._failure.done() and (error := task.exception()):
            self._failure.set_exception(error)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(min(LOOK_EVERY_S, self._services.settings.lease_s / 3))
            await self._renew()

    async def _renew(self) -> None:
        """Keep the lease, and hear of the batch's cancellation and the end of its window, by Redis's clock."""
        status, left_s = await self._batches.renew(self._lease, lease_s=self._services.settings.lease_s)
        self._until_s = asyncio.get_running_loop().time() + left_s
        if self._stopping is None and status == "cancelling":
            self._stopping = "cancelled"
        elif self._stopping is None and left_s <= 0 and status != "finalizing":
            self._stopping = "expired"

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
        while not self._stopping:
            if len(self._lines) >= settings.batch_window:
                await asyncio.wait(self._lines, timeout=LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
                continue
            await self._output.flush_due()
            taken = await self._batches.take(self._lease, line, self._batch.job_id(line), settings)
            if taken == "taken":
                await self._begin(line, request).wait()
            if taken != "full":
                return taken == "taken"
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return False

    def _begin(self, line: Line, request: Request | None) -> asyncio.Event:
        """Run a line in flight, whose request may be at hand; the event is set when it has a place among the submits."""
        entered = asyncio.Event()
        task = asyncio.create_task(self._line(line, request, entered))
        self._lines.add(task)
        task.add_done_callback(self._lines.discard)
        task.add_done_callback(self._note_failure)
        return entered

    async def _end_lines(self) -> None:
        """Wait for the lines in flight; where the batch stops, drop them and their jobs."""
        while self._lines:
            if self._stopping:
                for task in self._waiting:
                    task.cancel()
            await asyncio.wait(self._lines, timeout=LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
            await self._output.flush_due()
        if self._stopping:
            for line in await self._batches.flight(self._batch.id):
                await self._drop(line, self._stopping)

    async def _line(self, line: Line, request: Request | None, entered: asyncio.Event) -> None:
        job_id = self._batch.job_id(line)
        outcome: Job | SightlineError
        try:
            if request or not await self._is_there(job_id):
                async with self._submits:
                    entered.set()
                    if not await self._is_submitted(line, job_id, request):
                        return  # the batch stops: the line is dropped with those in flight
                request = None
            outcome = await self._end_of(job_id)
        except SightlineError as error:
            outcome = error
        except (LeaseLost, RedisError) as error:
            if not isinstance(error, DataError):
                raise
            outcome = SightlineError()
        except Exception:  # the seam: whatever goes wrong ends one line, which says so, and not the batch
            log.exception("batch.line_crashed", line=line.number)
            outcome = SightlineError()
        await self._keep_result(line, outcome)

    async def _is_there(self, job_id: str) -> bool:
        try:
            await self._services.store.get(job_id, owner=self._batch.owner)
        except NotFound:
            return False
        return True

    async def _is_submitted(self, line: Line, job_id: str, request: Request | None) -> bool:
        """Submit a line's job as soon as there is room; False where the batch stops before."""
        pause_s = 0.0
        while not self._stopping:
            if pause_s:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                if not await self._batches.has_room(self._services.settings):
                    continue
            try:
                asked = request or await self._input.request(line)
                await self._storage.ask(partial(self._submit, asked, job_id))
            except (QueueFull, RateLimited):  # others were quicker; it is not decoded again before there is room
                request, pause_s = None, max(pause_s, FIRST_PAUSE_S)
            else:
                return True
        return False

    async def _submit(self, request: Request, job_id: str) -> None:
        try:
            chat = ChatRequest.model_validate(request.body)
        except ValidationError as error:
            raise from_validation(list(error.errors())) from error
        if chat.calls.mode != "none":
            msg = "a line of a batch has no tools; set tool_choice to none, or ask in a chat"
            raise UnsupportedParameter(msg, param="tools")
        if chat.stream:
            raise InvalidRequest("a line of a batch cannot be a stream", param="stream")
        left_s = max(0, int(self._until_s - asyncio.get_running_loop().time())) + DEADLINE_MARGIN_S
        how: dict[str, Any] = {"priority": Priority.BULK, "job_id": job_id, "deadline_s": left_s, "lease": self._lease}
        await submit_chat(chat, self._services, owner=self._batch.owner, **how)

    async def _end_of(self, job_id: str) -> Job:
        task = asyncio.current_task()
        assert task  # noqa: S101  # only tasks come here
        self._waiting.add(task)
        try:
            while not (job := await self._services.waiter.wait(job_id, owner=self._batch.owner, wait_s=DAY_S)).status.is_final:
                pass
            return job
        finally:
            self._waiting.discard(task)

    async def _keep_result(self, line: Line, outcome: Job | SightlineError) -> None:
        kind: Kind = "output"
        try:
            if isinstance(outcome, SightlineError):
                raise outcome
            status, answer = 200, completion(outcome, finished_output(outcome), model=line.model)
        except SightlineError as error:
            kind, (status, told) = "error", openai_error(error)
            answer = {"error": told}
        request_id = self._batch.job_id(line).replace("job_", "req_")
        response = {"status_code": status, "request_id": request_id, "body": answer}
        result = line_result(self._batch, line.number, line.custom_id, response=response)
        await self._output.keep(line, kind, result, count={"output": "completed", "error": "failed"}[kind])

    async def _drop(self, line: Line, why: Status) -> None:
        """Stop a line in flight; one that has just ended keeps its result."""
        job_id = self._batch.job_id(line)
        await self._services.store.cancel(job_id, CancelledByClient())
        try:
            job = await self._services.store.get(job_id, owner=self._batch.owner)
        except (NotFound, Gone):
            job = None
        if job and job.status == "succeeded":
            await self._keep_result(line, job)
        else:
            result = line_result(self._batch, line.number, line.custom_id, error=_STOPPED[why])
            await self._output.keep(line, "error", result, count="")

    # --- the end ---

    async def _write_out(self) -> None:
        end: Status = "failed" if self._errors else self._stopping or "completed"
        if end == "completed" and await self._batches.move(self._lease, "finalizing") == "cancelling":
            end = "cancelled"
        try:
            files = await self._output.write({} if end not in _STOPPED else {"error": lambda: self._rest(end)})
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
                result = line_result(batch, line.number, parse_line(data, line.number).custom_id, error=_STOPPED[end])
                yield (json.dumps(result, ensure_ascii=False) + "\n").encode()
