"""Events: immutable messages about a job, made from its record. Pure."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from shared.jobs import Job, JobStatus, response_id

#: Standard Webhooks asks for payloads under 20 kB; a longer output is left out and fetched instead.
MAX_PAYLOAD_BYTES = 20_000
#: What a job that has gone on since it ran cannot have been then.
_NOT_WHILE_RUNNING = {"output", "error", "finished_at", "stage"}


def make_event(
    kind: str, created_at: float, job_id: str, job: Job | None, *, event_id: str, thin: bool = False
) -> dict[str, Any]:
    """Make the payload of a webhook.

    Args:
        kind: ``job.running``, ``job.succeeded``, ``job.failed`` or ``job.cancelled``; or the end of a response or a batch.
        created_at: when that happened, Unix seconds.
        job_id: whose event it is; a batch's id, where it is a batch's.
        job: its record, which may have gone on since; None where its retention is over.
        event_id: the event's own; OpenAI's receivers look for it in the payload.
        thin: leave the output out, however short.

    Returns:
        ``{type, timestamp, data}`` with the job as data; ``output_omitted`` and the job's ``url`` stand in for an output that
        is too long or not wanted. Of a response or a batch it is what OpenAI sends: its id alone as data.
    """
    if kind.startswith(("response.", "batch.")):
        event = {"id": event_id, "object": "event", "created_at": int(created_at), "type": kind}
        return event | {"data": {"id": response_id(job_id)}}
    status = JobStatus(kind.removeprefix("job."))
    data: dict[str, Any] = {"id": job_id, "object": "job", "status": status.value}
    if job:
        skipped = set() if status.is_final else _NOT_WHILE_RUNNING
        data = job.model_dump(mode="json", exclude_none=True, exclude=skipped) | {"status": status.value}
    if not job or (status.is_final and thin) or len(json.dumps(data, ensure_ascii=False).encode()) > MAX_PAYLOAD_BYTES:
        data.pop("output", None)
        data |= {"output_omitted": True, "url": f"/v1/jobs/{job_id}"}
    return {"type": kind, "timestamp": datetime.fromtimestamp(created_at, UTC).isoformat(), "data": data}


def make_group_event(created_at: float, payload: str) -> dict[str, Any]:
    """Make the payload of a webhook that tells the end of a group.

    Args:
        created_at: when that was, Unix seconds.
        payload: its name and its jobs by state, in JSON.
    """
    timestamp = datetime.fromtimestamp(created_at, UTC).isoformat()
    return {"type": "group.ended", "timestamp": timestamp, "data": {"object": "group", **json.loads(payload)}}
