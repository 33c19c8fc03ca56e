"""A batch's lines as jobs: each is submitted, waited for, and its result kept."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import structlog
from pydantic import ValidationError
from redis.exceptions import DataError, RedisError

from api.batches.input import BatchInput, Request
from api.batches.metrics import LINES
from api.batches.output import BatchOutput, line_result
from api.batches.storage import Storage
from api.batches.window import Window
from api.error_responses import openai_error
from api.openai.chat import NO_CALLS, completion, finished_output, submit_chat
from api.openai.chat_request import ChatRequest
from api.openai.tools import Calls
from api.services import Services
from api.validation import from_validation
from shared.errors import (
    CancelledByClient,
    Gone,
    InvalidRequest,
    MediaUnreadable,
    NotFound,
    QueueFull,
    RateLimited,
    SightlineError,
)
from shared.fields import DAY_S
from shared.jobs import Job, Priority
from shared.store.batch_leases import Kind, Lease, LeaseLost, Line, Status
from shared.store.batches import Batch

log = structlog.get_logger()

#: Jobs may start for so much longer than the batch has: what is late then ends with the batch, not by its own deadline.
DEADLINE_MARGIN_S = 60
#: The pauses before a line that found the queue full tries again: at first a small job's run time, at last too rare to cost
#: anything.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
STOPPED = {
    "cancelled": {"code": "batch_cancelled", "message": "The batch was cancelled before this line was done."},
    "expired": {"code": "batch_expired", "message": "The completion window ended before this line was done."},
}


class Lines:
    """Runs the lines of one batch."""

    def __init__(  # noqa: PLR0913  # what a batch consists of
        self,
        services: Services,
        lease: Lease,
        batch: Batch,
        *,
        window: Window,
        storage: Storage,
        source: BatchInput,
        output: BatchOutput,
        submits: asyncio.Semaphore,
    ) -> None:
        """Wire the parts together.

        Args:
            services: of this process.
            lease: the right to run the batch.
            batch: its record.
            window: how long it goes on.
            storage: asks for files for as long as it does.
            source: where a line's request is read again.
            output: where results are kept.
            submits: lets in so many lines, of all batches, as may be in memory at a time.
        """
        self._services, self._batches, self._lease, self._batch = services, services.batches, lease, batch
        self._window, self._storage, self._input, self._output, self._submits = window, storage, source, output, submits
        self._calls = dict[int, Calls]()  #: that answers to lines in flight may hold, as far as they were submitted here
        self.waiting = set[asyncio.Task[None]]()  #: those that wait for their jobs, and may be cancelled

    async def run(self, line: Line, request: Request | None, entered: asyncio.Event) -> None:
        """Submit a line's job, unless it was before, and keep its result.

        Args:
            line: in flight.
            request: what it asks for, where that is at hand.
            entered: is set when it has a place among the submits.

        Raises:
            LeaseLost: the batch is another runner's by now.
            RedisError: Redis is away.
        """
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
        except Exception:  # the last resort: an unexpected error fails this line, not the batch
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
        while not self._window.stopping:
            if pause_s:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                if not await self._batches.has_room(self._services.settings):
                    continue
            try:
                asked = request or await self._input.request(line)
                self._calls[line.number] = await self._storage.ask(partial(self._submit, asked, job_id))
            except (QueueFull, RateLimited):  # others were quicker; it is not decoded again before there is room
                request, pause_s = None, max(pause_s, FIRST_PAUSE_S)
            else:
                return True
        return False

    async def _submit(self, request: Request, job_id: str) -> Calls:
        try:
            chat = ChatRequest.model_validate(request.body)
        except ValidationError as error:
            raise from_validation(list(error.errors())) from error
        if chat.stream:
            raise InvalidRequest("a line of a batch cannot be a stream", param="stream")
        left_s = self._window.left_s + DEADLINE_MARGIN_S
        how: dict[str, Any] = {"priority": Priority.BULK, "job_id": job_id, "deadline_s": left_s, "lease": self._lease}
        await submit_chat(chat, self._services, owner=self._batch.owner, link=self._batch.traceparent, **how)
        return chat.calls

    async def _end_of(self, job_id: str) -> Job:
        task = asyncio.current_task()
        assert task  # noqa: S101  # only tasks come here
        self.waiting.add(task)
        try:
            while not (job := await self._services.waiter.wait(job_id, owner=self._batch.owner, wait_s=DAY_S)).status.is_final:
                pass
            return job
        finally:
            self.waiting.discard(task)

    async def _calls_of(self, line: Line) -> Calls:
        """Say which calls the answer to a line may hold; where another runner submitted it, its request is read again."""
        if line.number in self._calls:
            return self._calls[line.number]
        try:
            request = await self._input.request(line)
        except MediaUnreadable:  # what was answered is kept, as plain text
            return NO_CALLS
        return ChatRequest.model_validate(request.body).calls

    async def _keep_result(self, line: Line, outcome: Job | SightlineError) -> None:
        kind: Kind = "output"
        try:
            if isinstance(outcome, SightlineError):
                raise outcome
            output = finished_output(outcome)
            status, answer = 200, completion(outcome, output, model=line.model, calls=await self._calls_of(line))
        except SightlineError as error:
            kind, (status, error_body) = "error", openai_error(error)
            answer = {"error": error_body}
        request_id = self._batch.job_id(line).replace("job_", "req_")
        response = {"status_code": status, "request_id": request_id, "body": answer}
        result = line_result(self._batch, line.number, line.custom_id, response=response)
        await self._output.keep(line, kind, result, count={"output": "completed", "error": "failed"}[kind])
        LINES.labels(kind).inc()
        self._calls.pop(line.number, None)

    async def drop(self, line: Line, why: Status) -> None:
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
            result = line_result(self._batch, line.number, line.custom_id, error=STOPPED[why])
            await self._output.keep(line, "error", result, count="")
