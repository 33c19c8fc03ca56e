"""Webhooks without an address: the ends of jobs, heard by the stream of events, and passed on to a program on this machine.

The service need not reach that program, so nothing has to be allowed. What is passed on is signed as a delivery is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx

from shared.signing import sign
from sightline.client import Client, Event, Job, ServiceError
from sightline.screen import bad, print_json

TIMEOUT_S = 15.0


def forward(client: Client, *, to: str | None, secret: str, as_json: bool) -> None:
    """Print each job's end, and post it on, until interrupted.

    Args:
        client: of the service.
        to: where to post; left out, nowhere.
        secret: what it is signed with.
        as_json: print JSON.

    Raises:
        ServiceError: the service is away.
    """
    with httpx.Client(timeout=TIMEOUT_S, trust_env=False) as http:
        for event in client.events():
            if event.is_final and (job := _job(client, event)):
                answer = _post(http, to, event, job, secret) if to else ""
                if as_json:
                    print_json({"id": event.id, "type": event.type, "data": dict(job)} | ({"answer": answer} if to else {}))
                else:
                    said = job.text or (job.error.message if job.error else "")
                    print(" ".join(part for part in (event.type, job.id, answer, said) if part), flush=True)


def _job(client: Client, event: Event) -> Job | None:
    try:
        return client.job(str(event.data["id"]))
    except ServiceError as error:
        if error.is_lost:
            raise
        return None  # it was deleted, or is of another kind


def _post(http: httpx.Client, to: str, event: Event, job: Job, secret: str, now_s: Callable[[], float] = time.time) -> str:
    at_s, event_id = int(now_s()), f"evt_{event.id}"
    payload: dict[str, Any] = {"type": event.type, "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_s))}
    body = json.dumps(payload | {"data": dict(job)}, ensure_ascii=False).encode()
    signature = sign(secret, event_id=event_id, at_s=at_s, body=body)
    headers = {"webhook-id": event_id, "webhook-timestamp": str(at_s), "webhook-signature": signature}
    try:
        answer = http.post(to, content=body, headers={**headers, "content-type": "application/json"})
    except httpx.HTTPError as error:
        bad(f"{to} did not take it: {error}")
        return "-"
    return str(answer.status_code)
