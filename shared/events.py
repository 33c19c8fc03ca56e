"""Events: immutable messages about a job, made from its record. Pure."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from shared.jobs import Job

#: Standard Webhooks asks for payloads under 20 kB; a longer output is left out and fetched instead.
MAX_PAYLOAD_BYTES = 20_000


def make_event(kind: str, created_at: float, job: Job) -> dict[str, Any]:
    """Make the payload of a webhook.

    Args:
        kind: ``job.succeeded``, ``job.failed`` or ``job.cancelled``.
        created_at: when the job ended, Unix seconds.
        job: its record.

    Returns:
        ``{type, timestamp, data}`` with the job as data; ``output_omitted`` stands in for an output that is too long.
    """
    data = job.model_dump(mode="json", exclude_none=True)
    if len(json.dumps(data, ensure_ascii=False).encode()) > MAX_PAYLOAD_BYTES:
        data.pop("output", None)
        data["output_omitted"] = True
    return {"type": kind, "timestamp": datetime.fromtimestamp(created_at, UTC).isoformat(), "data": data}
