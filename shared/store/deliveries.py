"""Deliveries as senders have them, and as they are shown; how an attempt is written down. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

#: What a row of a delivery's log tells, and what goes without saying.
LOGGED: dict[str, Any] = {"attempt": None, "at": None, "code": None, "ms": None, "error": None, "answer": ""}

Verdict = Literal["delivered", "retry", "given_up", "disabled"]


def target_of(owner: str, url: str) -> str:
    """Name the target of a job's own address: no owner's dead receiver may pause another's on the same host."""
    parts = urlsplit(url)
    return f"{owner} {parts.scheme}://{parts.netloc}"


@dataclass(frozen=True)
class Delivery:
    """One event on its way to one target; ``attempt`` counts from 1."""

    id: str
    token: str  #: of the call that took it; whatever is written of it must show this
    attempt: int
    target: str
    job_id: str
    type: str
    created_at: float
    url: str  #: empty where it is the endpoint's
    payload: str
    failures: int  #: of this target, in a row
    failing_s: float  #: for how long it has been, by Redis's clock
    record: dict[str, str] = field(default_factory=dict)  #: of the job or batch, where it is still kept

    @property
    def event_id(self) -> str:
        """The same for everybody who gets it."""
        return self.id.partition(":")[0]

    @property
    def endpoint_id(self) -> str:
        """Empty where the job brought the address."""
        return self.id.partition(":")[2]


@dataclass(frozen=True)
class Taken:
    """What a sender took, at ``now_s`` by Redis's clock; ``left``: there is more for it as soon as it has room."""

    now_s: float
    deliveries: list[Delivery]
    left: bool


@dataclass(frozen=True)
class Outcome:
    """How an attempt went: what becomes of its delivery, and a row for its log."""

    delivery: Delivery
    verdict: Verdict
    log: Mapping[str, Any]
    next_s: float = 0.0  #: when it is tried again, for ``retry``
    pause_s: float = 0.0  #: for how long nothing goes to this target
    reason: str = ""  #: why the endpoint is disabled, for its owner


def delivery_of(token: str, now_ms: int, facts: list[Any], record: dict[str, str]) -> Delivery:
    """Make a delivery of what the script ``take_deliveries`` gives, and of the record of its job or batch."""
    delivery_id, attempt, target, job_id, kind, at_ms, url, payload, failures, since_ms = facts
    failing_s = (now_ms - since_ms) / 1000 if since_ms else 0.0
    return Delivery(
        *(delivery_id, token, attempt, target, job_id, kind, at_ms / 1000, url, payload),
        failures=failures,
        failing_s=failing_s,
        record=record,
    )


def flat(outcome: Outcome) -> tuple[str | int, ...]:
    """Lay an outcome out for the script ``settle_deliveries``."""
    delivery = outcome.delivery
    times = int(outcome.next_s * 1000), int(outcome.pause_s * 1000)
    return delivery.id, delivery.token, outcome.verdict, *times, _row(outcome.log), outcome.reason, delivery.failures


def _row(attempt: Mapping[str, Any]) -> str:
    """Write an attempt down in one line; what goes without saying is left out at its end."""
    row = [attempt.get(name, usual) for name, usual in LOGGED.items()]
    usual = list(LOGGED.values())
    while row and row[-1] == usual[len(row) - 1]:
        row.pop()
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"))


def _attempt(row: str) -> dict[str, Any]:
    return LOGGED | dict(zip(LOGGED, json.loads(row), strict=False))


def shown_of(delivery_id: str, record: dict[str, str]) -> tuple[int, str, dict[str, Any]]:
    """Give when its event was (ms), its target, and what is shown of a delivery."""
    event_id, _, endpoint_id = delivery_id.partition(":")
    shown = {
        "object": "delivery",
        "id": delivery_id,
        "event_id": event_id,
        "event_type": record["type"],
        "webhook_endpoint_id": endpoint_id or None,
        "url": record.get("url"),
        "status": record["state"],
        "reason": record.get("reason"),
        "attempts": [_attempt(row) for row in record.get("log", "").split("\n") if row],
    }
    return int(record["at_ms"]), record["target"], shown
