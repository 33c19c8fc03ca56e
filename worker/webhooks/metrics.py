"""What a webhook sender tells Prometheus; see :mod:`shared.process_metrics`."""

from __future__ import annotations

from prometheus_client import Gauge, Histogram

from shared.process_metrics import SECONDS

ATTEMPT_SECONDS = Histogram(
    "sightline_webhook_attempt_seconds",
    "Until a receiver answered, or did not, by what came of it.",
    ["verdict"],
    buckets=SECONDS,
)
DELAY_SECONDS = Histogram(
    "sightline_webhook_delay_seconds", "From an event to its receiver's yes.", buckets=(*SECONDS, 1800.0, 3600.0, 86_400.0)
)
UNDER_WAY = Gauge("sightline_webhooks_under_way", "Deliveries under way here.")
