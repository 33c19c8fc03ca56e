"""What a worker's process tells Prometheus, where its settings name a port; see :mod:`shared.process_metrics`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from shared.jobs import Stage
from worker.engines.remote import RemoteEngine
from worker.phase import Phase, Readiness
from worker.running_job import Running
from worker.supervisor import EngineSupervisor


class WorkerMetrics(Collector):
    """Reads a worker's state at each scrape, and vLLM's own figures under their own names."""

    def __init__(
        self, in_flight: Mapping[str, Running], places: int, readiness: Readiness, supervisor: EngineSupervisor
    ) -> None:
        """Stand for a worker until :meth:`close`.

        Args:
            in_flight: its jobs.
            places: how many it may hold.
            readiness: its phase.
            supervisor: has its engine.
        """
        self._in_flight, self._places, self._readiness, self._supervisor = in_flight, places, readiness, supervisor
        REGISTRY.register(self)

    def close(self) -> None:
        """Be read no more."""
        REGISTRY.unregister(self)

    def describe(self) -> Iterable[Metric]:
        """Claim no names: tests have two workers in one process, and vLLM's figures come and go."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Give the figures of this moment; called from the thread that answers Prometheus."""
        phase = GaugeMetricFamily("sightline_worker_phase", "Which phase the worker is in.", labels=["phase"])
        for one in Phase:
            phase.add_metric([one.value], float(one is self._readiness.phase))
        stages = Counter(running.stage for running in list(self._in_flight.values()))
        jobs = GaugeMetricFamily("sightline_worker_jobs", "Jobs in flight here, by stage.", labels=["stage"])
        for stage in Stage:
            jobs.add_metric([stage.value], stages[stage])
        yield from (phase, jobs, GaugeMetricFamily("sightline_worker_places", "Jobs that it may hold.", value=self._places))
        restarts = self._supervisor.restarts
        yield GaugeMetricFamily("sightline_worker_engine_restarts", "How often its engine was started anew.", value=restarts)
        yield from self._of_vllm()

    def _of_vllm(self) -> Iterable[Metric]:
        """Add up what the engine's processes have written into their folder, which goes when the engine does."""
        engine = self._supervisor.engine
        if not isinstance(engine, RemoteEngine) or not engine.folder:
            return
        try:
            written: Any = MultiProcessCollector
            families: list[Metric] = list(written(CollectorRegistry(), engine.folder).collect())
        except (OSError, ValueError):  # it went meanwhile
            return
        yield from (family for family in families if family.name.startswith("vllm:"))
