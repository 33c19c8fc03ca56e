"""From ends of jobs to rates, and what they were measured on."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterable
from typing import Any

from bench.gpu.ways import Done


def rate(done: list[Done]) -> float:
    """Give jobs a second between the middle of the first third and that of the last.

    What begins together ends together: jobs come in waves, which any two single ends would fall into or between.
    """
    ends = sorted(ended for _, ended, _ in done)
    third = len(ends) // 3
    if third == 0:
        return whole_rate(done)
    return (len(ends) - third) / (statistics.mean(ends[-third:]) - statistics.mean(ends[:third]))


def whole_rate(done: list[Done]) -> float:
    """Give jobs a second from the first beginning to the last end."""
    return len(done) / (max(ended for _, ended, _ in done) - min(began for began, _, _ in done))


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """Give the 50th, 95th and 99th."""
    ordered = sorted(values)
    return {f"p{p}": round(ordered[min(len(ordered) - 1, len(ordered) * p // 100)], 1) for p in (50, 95, 99)}


def machine() -> dict[str, Any]:
    """Say what it ran on."""
    import torch

    from worker.engines.vllm_setup import version

    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return {"gpus": gpus, "cores": os.cpu_count(), "vllm": version(), "torch": torch.__version__, "at": time.strftime("%F %T")}
