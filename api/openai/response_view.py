"""A job as one of OpenAI's responses, and the events of its log as those of a response's stream. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from api.error_responses import openai_error
from api.openai.media_report import seen
from api.openai.response_items import AskedTools, Events, Item, begun, call, ended, grown, message, output_items, written_in
from api.openai.streams import TextDiff
from api.openai.tools import CallStream
from shared.errors import StreamBroken, job_error
from shared.jobs import Job, JobStatus, Usage, response_id
from shared.store.event_log import Entry

_STATUS = {
    JobStatus.QUEUED: "queued",
    JobStatus.RUNNING: "in_progress",
    JobStatus.SUCCEEDED: "completed",
    JobStatus.FAILED: "failed",
    JobStatus.CANCELLED: "cancelled",
}


def view(job: Job, echoed: dict[str, Any]) -> dict[str, Any]:
    """Show a job as a response.

    Args:
        job: as it stands.
        echoed: what the response says of its request.
    """
    output = job.output
    cut = job.status is JobStatus.SUCCEEDED and output is not None and output.finish_reason == "length"
    status = "incomplete" if cut else _STATUS[job.status]
    error = openai_error(job_error(job.error))[1] if job.error and job.status is JobStatus.FAILED else None
    return {
        "id": response_id(job.id),
        "object": "response",
        "created_at": int(job.created_at),
        "completed_at": int(job.finished_at) if job.finished_at and status == "completed" else None,
        "status": status,
        "error": {"code": error["code"], "message": error["message"]} if error else None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": output_items(job.id, AskedTools.model_validate(echoed).calls, output.text, status) if output else [],
        "usage": _usage(output.usage) if output else None,
        "metadata": job.metadata,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "tool_choice": "auto",
        "tools": [],
        "truncation": "disabled",
        **echoed,
        **seen(output),
    }


def _usage(counts: Usage) -> dict[str, Any]:
    return {
        "input_tokens": counts.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": counts.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": counts.prompt_tokens + counts.output_tokens,
    }


class ResponseEvents:
    """Tells a response's events from its job's log, read from the beginning.

    ``sequence_number`` counts what was said, from 0. The log only grows, and what follows from an entry depends on nothing but
    it and those before it: whoever reads the log again, on any gateway, reads the same events under the same numbers.
    """

    def __init__(self, job: Job, echoed: dict[str, Any]) -> None:
        """Begin before the first event.

        Args:
            job: whose log it is, in whatever state.
            echoed: what the response says of its request.
        """
        self._new = Job(id=job.id, status=JobStatus.QUEUED, created_at=job.created_at, metadata=job.metadata)
        self._echoed = echoed
        self._telling = TextDiff()
        self._seen = set[str]()
        self._calls = AskedTools.model_validate(echoed).calls
        self._stream = CallStream(self._calls)
        self._sent = 0  #: how much of the first item was told
        self.last = -1  #: the number of the last event given

    def hear(self, entry: Entry) -> Iterator[dict[str, Any]]:
        """Take the next entry, and give the events that follow from it.

        Raises:
            StreamBroken: the job began again and says something else, or the log no longer holds its beginning.
        """
        for kind, fields in self._follow(entry):
            self.last += 1
            yield {"type": kind, "sequence_number": self.last, **fields}

    def _follow(self, entry: Entry) -> Events:
        if entry.is_final:
            yield from self._end(Job.model_validate(entry.data))
        elif entry.type == "job.delta":
            yield from self._say(self._telling.add(entry.data["text"]))
        elif entry.type == "job.reset":
            self._telling.restart()
        elif entry.type == "history_truncated":
            raise StreamBroken("the beginning of this stream is no longer kept; read the response for the whole text")
        elif entry.type == "job.queued" and self._is_first(entry.type):
            yield "response.created", self._state(self._new)
            yield "response.queued", self._state(self._new)
        elif entry.type == "job.running" and self._is_first(entry.type):
            yield "response.in_progress", self._state(self._new.model_copy(update={"status": JobStatus.RUNNING}))

    def _is_first(self, kind: str) -> bool:
        """Whether this has not happened before: a job that begins again does not tell it again."""
        if kind in self._seen:
            return False
        self._seen.add(kind)
        return True

    def _state(self, job: Job) -> dict[str, Any]:
        return {"response": view(job, self._echoed)}

    def _say(self, piece: str) -> Events:
        """Tell what can be told of a text that still grows: calls that the model chose itself are told at the end."""
        for delta in self._stream.add(piece) if piece else ():
            if "content" in delta:
                yield from self._grow(message(self._new.id, "", "in_progress"), 0, delta["content"])
                self._sent += len(delta["content"])
            elif self._calls.mode == "named":
                yield from self._grow(call(self._new.id, 0, self._calls.name, "", "in_progress"), 0, piece)
                self._sent += len(piece)

    def _grow(self, item: Item, index: int, piece: str) -> Events:
        if self._is_first(item["id"]):
            yield from begun(item, index)
        if piece:
            yield from grown(item, index, piece)

    def _end(self, job: Job) -> Events:
        state = self._state(job)
        if job.output and job.status is JobStatus.SUCCEEDED:
            yield from self._say(self._telling.end(job.output.text))
            for index, item in enumerate(state["response"]["output"]):
                yield from self._grow(item, index, written_in(item)[0 if index else self._sent :])
                yield from ended(item, index)
        yield f"response.{state['response']['status']}", state
