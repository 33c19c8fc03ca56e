"""What vLLM's scheduler says after each step."""

from __future__ import annotations

import time
from typing import Any


class Stats:
    """Keeps the scheduler's last counts, and when they came."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self.running = 0
        self.running_peak = 0
        self.waiting = 0
        self.counted_at_s = 0.0
        self.at_s = time.monotonic()

    def stalled_s(self, in_flight: int) -> float:
        """Say for how long the engine has had work and made no step."""
        if not in_flight:
            self.at_s = time.monotonic()
        return time.monotonic() - self.at_s

    def logger(self, *, publishes: bool) -> Any:
        """Make the class of the logger that vLLM calls after each step.

        It is one of Prometheus's, since vLLM adds its own where none is: 8 % of the event loop, though nobody may read it.

        Args:
            publishes: whether Prometheus does.
        """
        from vllm.v1.metrics.loggers import PrometheusStatLogger

        stats = self

        class Counts(PrometheusStatLogger):  # type: ignore[misc]  # vLLM is not followed
            def __init__(self, vllm_config: Any, engine_indexes: list[int] | None = None) -> None:
                if publishes:
                    super().__init__(vllm_config, engine_indexes)

            def record(self, scheduler_stats: Any, *more: Any, **named: Any) -> None:
                if publishes:
                    super().record(scheduler_stats, *more, **named)
                stats.at_s = time.monotonic()
                if scheduler_stats is not None:  # of several fronts each step tells one
                    stats.counted_at_s = stats.at_s
                    stats.running = scheduler_stats.num_running_reqs
                    stats.running_peak = max(stats.running_peak, stats.running)
                    stats.waiting = scheduler_stats.num_waiting_reqs

            def log_engine_initialized(self) -> None:
                if publishes:
                    super().log_engine_initialized()

        return Counts
