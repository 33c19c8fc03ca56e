"""What Prometheus reads at ``/metrics``: the store's counts and the workers' notices, the same from each gateway.

Counters are kept in Redis and outlive gateways and workers. Every gateway shows the same figures: take
``max`` over gateways, not ``sum``.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from api import VERSION
from shared.errors import codes
from shared.jobs import JobStatus, Priority
from shared.store.jobs import JobStore
from shared.store.lua import BUCKETS_S
from shared.store.tallies import Tallies, Tally
from shared.store.workers import WorkerRegistry

FRESH_S = 1.0  #: several scrapers, and whoever reloads, cost Redis one look


class Scrape:
    """Makes the text, and keeps it for :data:`FRESH_S`."""

    def __init__(self, store: JobStore, tallies: Tallies, workers: WorkerRegistry) -> None:
        """Know nothing yet."""
        self._store, self._tallies, self._workers = store, tallies, workers
        self._text, self._made_s = b"", float("-inf")
        self._lock = asyncio.Lock()

    async def text(self) -> bytes:
        """Give what Prometheus reads; where Redis is away, that it is."""
        async with self._lock:
            if time.monotonic() - self._made_s > FRESH_S:
                self._text, self._made_s = await self._make(), time.monotonic()
            return self._text

    async def _make(self) -> bytes:
        families = [_gauge("sightline_build_info", "This version.", ["version"], {(VERSION,): 1})]
        try:
            looks = self._store.counts(), self._tallies.look(), self._workers.workers()
            counts, tally, workers = await asyncio.gather(*looks)
        except RedisError:
            families.append(_gauge("sightline_redis_up", "Whether Redis answers.", [], {(): 0}))
        else:
            families += [_gauge("sightline_redis_up", "Whether Redis answers.", [], {(): 1})]
            families += [*_jobs(counts, tally), *_proofs(tally), *_fleet(workers)]
        registry = CollectorRegistry()
        registry.register(_Families(families))
        return generate_latest(registry)


class _Families(Collector):
    """What a registry asks once."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        """Give what was counted."""
        return self._families


def _gauge(name: str, documentation: str, labels: list[str], values: Mapping[Any, float]) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=labels)
    for key, value in values.items():
        family.add_metric(list(key), value)
    return family


def _counter(name: str, documentation: str, labels: list[str], values: Mapping[Any, int]) -> Metric:
    family = CounterMetricFamily(name, documentation, labels=labels)
    for key, value in values.items():
        family.add_metric(list(key), value)
    return family


def _jobs(counts: dict[str, int], tally: Tally) -> Iterable[Metric]:
    now = {(status.value,): counts[status.value] for status in (JobStatus.QUEUED, JobStatus.RUNNING)}
    yield _gauge("sightline_jobs", "Jobs that wait or run now.", ["status"], now)
    documentation = "Jobs that were accepted since the store began."
    yield _counter("sightline_jobs_accepted", documentation, ["class", "model"], tally.of("accepted"))
    ended, known = Counter[tuple[str, ...]](), codes()
    for (priority, status, code, model), n in tally.of("end").items():
        ended[priority, status, code if code in known or not code else "other", model] += n
    labels = ["class", "status", "code", "model"]
    yield _counter("sightline_jobs_ended", "Jobs that ended since the store began; code: why, of a failure.", labels, ended)
    oldest = {(kind.value,): tally.oldest_s.get(kind.value, 0.0) for kind in Priority}
    yield _gauge("sightline_queue_oldest_age_seconds", "How long the oldest job that may start has waited.", ["class"], oldest)
    yield _histogram("sightline_job_wait_seconds", "From acceptance to the first start, of jobs that ended.", "wait", tally)
    yield _histogram("sightline_job_run_seconds", "From the first start to the end.", "run", tally)
    yield _counter("sightline_tokens", "Tokens of the answers given.", ["type"], tally.of("tokens"))


def _histogram(name: str, documentation: str, what: str, tally: Tally) -> Metric:
    family = HistogramMetricFamily(name, documentation, labels=["class"])
    bounds = [*(str(float(bound)) for bound in BUCKETS_S), "+Inf"]  # as Prometheus 3 writes them, whatever it is sent
    for kind in Priority:
        within, total_s = tally.spread(what, kind.value)
        family.add_metric([kind.value], list(zip(bounds, map(float, within), strict=True)), total_s)
    return family


def _proofs(tally: Tally) -> Iterable[Metric]:
    one = {(): 0}
    yield _counter("sightline_rescued", "Jobs of dead workers that were queued again.", [], one | tally.of("rescued"))
    documentation = "Ends of jobs that were refused: the worker had lost its claim, and its fence was stale."
    yield _counter("sightline_fenced_writes", documentation, [], one | tally.of("fenced"))
    yield _counter("sightline_handed_back", "Jobs that a worker handed back.", ["why"], tally.of("released"))
    yield _counter("sightline_webhook_attempts", "Attempts at webhooks, by how they went.", ["outcome"], tally.of("webhooks"))
    late = {(): tally.webhook_late_s}
    yield _gauge("sightline_webhook_overdue_seconds", "Age of the oldest webhook delivery that is due.", [], late)


def _fleet(workers: list[dict[str, Any]]) -> Iterable[Metric]:
    phases, held, slots = Counter[tuple[str, ...]](), Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
    restarts: dict[tuple[str, ...], float] = {}
    for worker in workers:
        model = str(worker.get("model", ""))
        phases[worker["phase"], model] += 1
        held[model,] += worker.get("jobs_in_flight", 0)
        slots[model,] += worker.get("places", 0)
        restarts[worker_id(worker), model] = worker.get("engine_restarts", 0)
    yield _gauge("sightline_workers", "Workers.", ["phase", "model"], phases)
    yield _gauge("sightline_jobs_in_flight", "Jobs that the workers hold.", ["model"], held)
    yield _gauge("sightline_worker_slots", "Jobs that the workers may hold.", ["model"], slots)
    documentation = "How often a living worker's engine was started anew."
    yield _gauge("sightline_engine_restarts", documentation, ["worker", "model"], restarts)


def worker_id(worker: dict[str, Any]) -> str:
    """Name a worker for everybody: by the token of its name, which is host:pid-token."""
    return f"worker_{worker['name'].rpartition('-')[2]}"
