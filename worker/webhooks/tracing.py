"""What traces are told of an attempt to deliver: where it went, by host and port alone, and what came of it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from urllib.parse import urlsplit

from shared.store.deliveries import Delivery, Verdict
from shared.tracing import Span, tracer
from shared.webhook_client import Answer


def told(delivery: Delivery, url: str) -> AbstractContextManager[Span]:
    """Tell of an attempt while the block runs, in the trace of its job or batch; of a group's end, in that of its last job."""
    parts = urlsplit(url)
    facts: dict[str, str | int] = {
        "http.request.method": "POST",
        "url.scheme": parts.scheme,
        "server.address": parts.hostname or "",
        "server.port": parts.port or {"http": 80}.get(parts.scheme, 443),
        "http.request.resend_count": delivery.attempt - 1,
        "sightline.event.id": delivery.event_id,
        "sightline.event.type": delivery.type,
        f"sightline.{'batch' if delivery.type.startswith('batch.') else 'job'}.id": delivery.job_id,
    }
    return tracer().span("deliver webhook", "client", facts, parent=delivery.record.get("traceparent", ""))


def tell_answer(span: Span, answer: Answer, verdict: Verdict) -> None:
    """Tell how it went."""
    span.tell({"sightline.verdict": verdict} | ({"http.response.status_code": answer.code} if answer.code else {}))
    if not answer.is_success:
        span.fail(answer.error or str(answer.code))
