"""Reads, while a way is measured, how busy the GPU is and how much CPU time each of its processes takes."""

from __future__ import annotations

import statistics
import subprocess
import threading
from collections import defaultdict
from types import TracebackType
from typing import Self

import psutil

EVERY_S = 0.5
_QUERY = ("nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits")


class Meter:
    """Measures between ``with`` and its end.

    Args:
        parts: names of parts, each with the process ids at the root of it.
    """

    def __init__(self, parts: dict[str, int]) -> None:
        """Measure nothing yet."""
        self._parts = parts
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.gpu_percent: list[float] = []

    def __enter__(self) -> Self:
        """Begin."""
        self._before = self._cpu_s()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End."""
        self._ended.set()
        self._thread.join()
        after = self._cpu_s()
        self.cpu_s = {part: round(after[part] - self._before.get(part, 0.0), 2) for part in after}

    @property
    def gpu_mean_percent(self) -> float | None:
        """How much of the time the GPUs ran something, in the mean over all of them; None without a GPU."""
        return round(statistics.mean(self.gpu_percent), 1) if self.gpu_percent else None

    def _watch(self) -> None:
        while not self._ended.wait(EVERY_S):
            try:
                answer = subprocess.run(_QUERY, capture_output=True, text=True, check=True)  # noqa: S603  # constant
            except (OSError, subprocess.CalledProcessError):
                return
            self.gpu_percent.append(mean_percent(answer.stdout))

    def _cpu_s(self) -> dict[str, float]:
        spent: dict[str, float] = defaultdict(float)
        for part, pid in self._parts.items():
            for process in _family(pid):
                try:
                    times, kind = process.cpu_times(), "" if process.pid == pid else f"/{kind_of(process)}"
                except psutil.Error:
                    continue
                spent[part + kind] += times.user + times.system
        return spent


def mean_percent(answer: str) -> float:
    """Read what ``nvidia-smi`` says of each GPU, a line for each."""
    return statistics.mean(float(line) for line in answer.split())


def kind_of(process: psutil.Process) -> str:
    """Say what a child of a worker, or of another way, is.

    Raises:
        psutil.Error: it is gone.
    """
    command = " ".join((process.name(), *process.cmdline()))
    if "EngineCore" in command:
        return "engine core"
    return "engine" if "worker.engines.host" in command else "others"


def _family(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []
