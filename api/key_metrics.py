"""What the busiest keys do, for Prometheus at a gateway's own port; ``/metrics`` may be read by each tenant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from shared.settings import Settings
from shared.store.address import sync_client
from shared.store.lua import USED
from shared.store.usage import DAY_S, counts_of

TIMEOUT_S = 3.0  #: Prometheus waits for ten
LABELS = ["key", "name"]


@dataclass(frozen=True)
class Tenant:
    """A key, as its hash of limits and counts tells."""

    id: str
    name: str
    queued: int
    running: int
    quotas: dict[str, int] = field(default_factory=dict)  #: a day's, by what is limited
    used: dict[str, int] = field(default_factory=dict)  #: today, by what was


class KeyMetrics(Collector):
    """Looks at all keys at each scrape, and tells of those that had the most jobs today."""

    def __init__(self, settings: Settings) -> None:
        """Look at nothing yet."""
        self._settings = settings

    def describe(self) -> Iterable[Metric]:
        """Claim no names without asking Redis."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Give the figures of this moment, none where Redis is away; called from the thread that answers Prometheus."""
        try:
            tenants = self._look()
        except RedisError:
            return
        most = sorted(tenants, key=lambda one: (one.used.get("jobs", 0), one.queued + one.running), reverse=True)
        yield from families(most[: self._settings.metrics_keys])

    def _look(self) -> list[Tenant]:
        prefix = self._settings.redis_prefix
        with sync_client(self._settings, timeout_s=TIMEOUT_S, decode_responses=True, encoding_errors="replace") as redis:
            ids: list[str] = redis.zrange(f"{prefix}keys", 0, -1)
            pipe = redis.pipeline(transaction=False)
            pipe.time()
            for key_id in ids:
                pipe.hget(f"{prefix}key:{key_id}", "name")
                pipe.hgetall(f"{prefix}owner:{key_id}")
            (now_s, _), *found = pipe.execute(raise_on_error=False)
        looks = zip(ids, found[::2], found[1::2], strict=True)
        return [_tenant(key_id, name, facts, now_s // DAY_S) for key_id, name, facts in looks if isinstance(facts, dict)]


def families(tenants: Iterable[Tenant]) -> list[Metric]:
    """Give what is told of these."""
    jobs = GaugeMetricFamily("sightline_key_jobs", "Jobs of a key that wait or run now.", labels=[*LABELS, "status"])
    used = CounterMetricFamily(
        "sightline_key_used", "What a key used today, anew from midnight, UTC.", labels=[*LABELS, "what"]
    )
    quota = GaugeMetricFamily("sightline_key_quota", "What a key may use in a day.", labels=[*LABELS, "what"])
    for one in tenants:
        for status, n in ("queued", one.queued), ("running", one.running):
            jobs.add_metric([one.id, one.name, status], n)
        for what in sorted(USED):
            used.add_metric([one.id, one.name, what], one.used.get(what, 0))
        for what, most in one.quotas.items():
            quota.add_metric([one.id, one.name, what], most)
    return [jobs, used, quota]


def _tenant(key_id: str, name: object, facts: dict[str, str], today: int) -> Tenant:
    used = Counter[str]()
    for fact, text in facts.items() if _number(facts, "day") == today else ():
        if fact.startswith("used:"):
            used.update(counts_of(text))
    quotas = {what: _number(facts, f"max_{what}_day") for what in ("jobs", "vision_tokens")}
    return Tenant(
        *(key_id, name if isinstance(name, str) else ""),
        *(_number(facts, "queued"), _number(facts, "running")),
        quotas={what: most for what, most in quotas.items() if most > 0},
        used=used,
    )


def _number(facts: dict[str, str], name: str) -> int:
    """Read a count; one that is damaged is none."""
    text = facts.get(name, "0")
    return int(text) if text.isascii() and text.isdigit() else 0
