"""Runs batches: any gateway does, under a lease; one that dies is followed by another, and no finished line runs again.

The input is read line by line, a window of lines is in flight, and results go to files part by part, so a batch of any
length needs the memory of a window.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Any

import structlog
from pydantic import ValidationError
from redis.exceptions import RedisError

from api.batch_input import BatchInput, parse_line
from api.batch_output import BatchOutput, line_result
from api.chat_request import ChatRequest
from api.deps import Parts
from api.openai import completion, finished_output, submit_chat
from api.problems import from_validation, openai_error
from shared.aio import cancel_all
from shared.batches import Batch, Kind, Line
from shared.errors import CancelledByClient, Gone, InvalidRequest, JobFailed, NotFound, SightlineError
from shared.jobs import DAY_S, Job, Priority

log = structlog.get_logger()

LEASE_S = 10.0
LOOK_EVERY_S = 1.0
SUBMITS = 4  #: lines whose pictures are in memory at a time


class BatchRunner:
    """Looks for open batches and runs each in a task."""

    def __init__(self, parts: Parts) -> None:
        """Use the gateway's parts; :meth:`serve` must run."""
        self._parts = parts
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Run what nobody runs, until cancelled; then hand it back."""
        batches = self._parts.batches
        try:
            while True:
                with suppress(RedisError):
                    for batch_id in await batches.open_ids():
                        if batch_id not in self._tasks and await batches.lease(batch_id, lease_s=LEASE_S):
                            self._tasks[batch_id] = task = asyncio.create_task(self._run(batch_id))
                            task.add_done_callback(partial(self._forget, batch_id))
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            left = dict(self._tasks)
            await cancel_all(set(left.values()))
            with suppress(RedisError):
                for batch_id in left:
                    await batches.renew(batch_id, lease_s=0)

    def _forget(self, batch_id: str, _: asyncio.Task[None]) -> None:
        self._tasks.pop(batch_id, None)

    async def _run(self, batch_id: str) -> None:
        with structlog.contextvars.bound_contextvars(batch_id=batch_id):
            try:
                await BatchRun(self._parts, await self._parts.batches.get(batch_id)).run()
            except RedisError:
                log.warning("store.unreachable", chore="batch")  # its lease ends, and it is taken up again
            except Exception:
                log.exception("batch.crashed")


class BatchRun:
    """One batch, from wherever it stands to its end."""

    def __init__(self, parts: Parts, batch: Batch) -> None:
        """Take it up; ``batch`` is its record as read under the lease."""
        self._parts, self._batches, self._batch = parts, parts.batches, batch
        self._lines: set[asyncio.Task[None]] = set()
        self._submits = asyncio.Semaphore(SUBMITS)
        self._stopping: str | None = None  #: why no more lines are taken: expired or cancelled
        self._input = BatchInput(parts.blobs, batch.input_file_id, max_line_bytes=parts.settings.max_body_bytes)
        self._output = BatchOutput(parts, batch.id, owner=batch.owner)

    async def run(self) -> None:
        """Validate, run, write out; each step is skipped that was done before."""
        keeping = asyncio.create_task(self._keep())
        try:
            if self._batch.status == "validating" and not await self._validate():
                return
            await self._run_lines()
            await self._write_out()
        finally:
            await cancel_all({keeping, *self._lines})

    async def _keep(self) -> None:
        """Renew the lease, and hear of the batch's cancellation and the end of its window."""
        while True:
            with suppress(RedisError):
                await self._batches.renew(self._batch.id, lease_s=LEASE_S)
                now = await self._batches.get(self._batch.id)
                if now.status == "cancelling":
                    self._stop("cancelled")
                elif time.time() > now.expires_at:
                    self._stop("expired")
            await asyncio.sleep(LOOK_EVERY_S)

    def _stop(self, why: str) -> None:
        if self._stopping is None:
            self._stopping = why
            for task in self._lines:
                task.cancel()

    async def _validate(self) -> bool:
        n_lines, errors = await self._input.check()
        if errors:
            await self._batches.move(self._batch.id, "failed", errors=json.dumps(errors, ensure_ascii=False))
            return False
        log.info("batch.began", lines=n_lines)
        await self._batches.move(self._batch.id, "in_progress", unless=frozenset({"cancelling"}), total=n_lines)
        return True

    async def _run_lines(self) -> None:
        self._batch = await self._batches.get(self._batch.id)
        if self._batch.status == "cancelling":
            self._stop("cancelled")
        slots = asyncio.Semaphore(self._parts.settings.batch_window)
        for line in await self._batches.flight(self._batch.id):
            await slots.acquire()
            self._begin(line, slots)
        if self._batch.status == "in_progress":
            async for line, _ in self._input.read(self._batch.offset, self._batch.line):
                await slots.acquire()
                if self._stopping or not await self._batches.take(self._batch.id, line):
                    slots.release()
                    break
                self._begin(line, slots)
        while self._lines:
            await asyncio.wait(set(self._lines))

    def _begin(self, line: Line, slots: asyncio.Semaphore) -> None:
        task = asyncio.create_task(self._line(line))
        self._lines.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._lines.discard(task)
            slots.release()
            if not task.cancelled() and (error := task.exception()):
                log.error("batch.line_crashed", line=line.number, exc_info=error)

        task.add_done_callback(ended)
        if self._stopping:
            task.cancel()

    async def _line(self, line: Line) -> None:
        try:
            job = await self._insist(lambda: self._answer(line))
        except asyncio.CancelledError:
            if self._stopping is None:
                raise  # the gateway ends: the line stays in flight, and its job runs on
            await asyncio.shield(self._insist(lambda: self._drop(line)))
            return
        await self._insist(lambda: self._keep_result(line, job))

    async def _insist(self, ask: Any) -> Any:
        while True:
            try:
                return await ask()
            except RedisError:
                await asyncio.sleep(1.0)
            except SightlineError as error:
                if not error.retryable or isinstance(error, JobFailed):
                    return error
                await asyncio.sleep(min(error.retry_after_s or 1, 5))
            except Exception:  # the seam: whatever goes wrong ends one line, which says so, and not the batch
                log.exception("batch.line_crashed")
                return SightlineError()

    async def _answer(self, line: Line) -> Job:
        """Submit a line if that has not happened, and wait for its job."""
        job_id, store = self._batch.job_id(line), self._parts.store
        try:
            await store.get(job_id, owner=self._batch.owner)
        except NotFound:
            async with self._submits:
                await self._submit(line, job_id)
        return await self._parts.finals.wait(job_id, owner=self._batch.owner, wait_s=DAY_S)

    async def _submit(self, line: Line, job_id: str) -> None:
        _, body = await self._input.request(line)
        try:
            chat = ChatRequest.model_validate(body)
        except ValidationError as error:
            raise from_validation(list(error.errors())) from error
        if chat.stream:
            raise InvalidRequest("a line of a batch cannot be a stream", param="stream")
        left_s = max(1, self._batch.expires_at - int(time.time()))
        await submit_chat(chat, self._parts, owner=self._batch.owner, priority=Priority.BULK, job_id=job_id, deadline_s=left_s)

    async def _keep_result(self, line: Line, outcome: Job | SightlineError) -> None:
        custom_id, body = await self._input.request(line)
        kind: Kind = "output"
        try:
            if isinstance(outcome, SightlineError):
                raise outcome
            status, answer = 200, completion(outcome, finished_output(outcome), model=str(body.get("model")))
        except SightlineError as error:
            kind, (status, told) = "error", openai_error(error)
            answer = {"error": told}
        response = {"status_code": status, "request_id": self._batch.job_id(line).replace("job_", "req_"), "body": answer}
        result = line_result(self._batch, line.number, custom_id, response=response)
        await self._batches.finish(self._batch.id, line, kind, result, count={"output": "completed", "error": "failed"}[kind])
        await self._output.flush(kind)

    async def _drop(self, line: Line) -> None:
        """Stop a line in flight; one that has just ended keeps its result."""
        job_id = self._batch.job_id(line)
        await self._parts.store.cancel(job_id, CancelledByClient())
        try:
            job = await self._parts.store.get(job_id, owner=self._batch.owner)
        except (NotFound, Gone):
            job = None
        if job and job.status == "succeeded":
            await self._keep_result(line, job)
        else:
            custom_id, _ = await self._input.request(line)
            await self._batches.finish(self._batch.id, line, "error", self._not_run(line, custom_id), count="")

    def _not_run(self, line: Line, custom_id: str) -> dict[str, Any]:
        told = {
            "cancelled": {"code": "batch_cancelled", "message": "The batch was cancelled before this line was done."},
            "expired": {"code": "batch_expired", "message": "The completion window ended before this line was done."},
        }
        return line_result(self._batch, line.number, custom_id, error=told[self._stopping or "cancelled"])

    async def _write_out(self) -> None:
        batch = self._batch = await self._batches.get(self._batch.id)
        end = self._stopping or ("cancelled" if batch.status == "cancelling" else "completed")
        if end == "completed":
            await self._batches.move(batch.id, "finalizing", unless=frozenset({"cancelling"}))
        kinds: tuple[Kind, Kind] = ("output", "error")
        for kind in kinds:
            await self._output.flush_all(kind)
        batch = self._batch = await self._batches.get(batch.id)
        names = await self._batches.name_files(batch.id)
        n_bytes = {kind: await self._output.join(kind, batch.parts[kind], names[kind], self._rest(kind)) for kind in kinds}
        dropped = {f"{kind}_file": "" for kind in kinds if not n_bytes[kind]}
        await self._batches.move(batch.id, end, **dropped)  # type: ignore[arg-type]
        for kind in kinds:
            await self._output.forget_parts(kind, batch.parts[kind])
        log.info("batch.ended", status=end, **batch.counts)

    async def _rest(self, kind: Kind) -> AsyncIterator[bytes]:
        """Give the lines of a file that never were results: those of the input that were not begun."""
        if kind == "error" and self._stopping:
            async for line, data in self._input.read(self._batch.offset, self._batch.line):
                custom_id, _ = parse_line(data, line.number)
                yield (json.dumps(self._not_run(line, custom_id), ensure_ascii=False) + "\n").encode()
