"""``python -m tests.chaos.suspects [POISONS] [WORKERS]``: jobs that kill the engine, among 256 in flight, by the engine double.

All parts run as processes. An engine takes ``LOAD_S`` to load; the first one of a worker waits until it is full, or for some
seconds, so that all are in it when it dies. The last line is JSON; the exit code says whether the others succeeded, the
poisonous ones failed, and whether few engines died beside the first.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from shared.settings import Settings
from sightline.client import Client
from sightline.stack import Stack
from tests.double import DoubleEngine, Request
from tests.media import RED, data_url, picture

N_JOBS = 256
LOAD_S, FILLED_S = 1.0, 10.0
GOOD, POISON = "!slow 0.5", "!slow 0.25 !kill"
#: Beside the first death, by the number of poisonous jobs.
MOST_DEATHS = {1: 5, 2: 9}


class PatientDouble(DoubleEngine):
    """The double, whose first engine does nothing until it is full."""

    n_made = 0

    def __init__(self, settings: Settings) -> None:
        """Count it."""
        super().__init__(settings)
        PatientDouble.n_made += 1
        self._waits_for = settings.max_num_seqs if self.n_made == 1 else 0

        self._until_s = math.inf

    async def _enter(self) -> None:
        self._until_s = min(self._until_s, time.monotonic() + FILLED_S)
        await super()._enter()

    async def _obey(self, request: Request) -> None:
        while self.running < self._waits_for and time.monotonic() < self._until_s:
            await self._pass(0.05, request)
        self._waits_for = 0
        await super()._obey(request)


def measure(stack: Stack, n_poisons: int) -> dict[str, Any]:
    """Submit all jobs and see them to their ends; gives the figures."""
    poisons = {N_JOBS * (n + 1) // (n_poisons + 1) for n in range(n_poisons)}
    with Client(stack.url) as client, ThreadPoolExecutor(32) as pool:
        file = data_url(picture(RED, (56, 56)))
        bodies = [{"prompt": POISON if n in poisons else GOOD, "images": [file]} for n in range(N_JOBS)]
        ids = list(pool.map(lambda body: client.submit(body)["id"], bodies))
        began = time.monotonic()
        jobs = list(pool.map(lambda job_id: client.wait(job_id, timeout_s=300), ids))
        seconds = time.monotonic() - began
        time.sleep(1.5)  # the workers' next notices
        workers = client.request("GET", "/v1/workers")["data"]
    codes = [(jobs[n]["error"] or {}).get("code") for n in poisons]
    return {
        "jobs": N_JOBS,
        "succeeded": sum(job["status"] == "succeeded" for job in jobs),
        "poisons": n_poisons,
        "found": codes.count("poison_input"),
        "further_deaths": sum(worker["engine_restarts"] for worker in workers) - 1,
        "attempts": max(job["attempt"] for job in jobs),
        "seconds": round(seconds, 1),
    }


def run(n_poisons: int, n_workers: int = 1) -> dict[str, Any]:
    """Start the service, measure, stop it; gives the figures."""
    folder = Path(tempfile.mkdtemp(prefix="sightline-suspects-"))
    settings = {
        "SIGHTLINE_ENGINE": "tests.chaos.suspects:PatientDouble",
        "SIGHTLINE_MAX_NUM_SEQS": str(N_JOBS // n_workers),
        "DOUBLE_LOAD_S": str(LOAD_S),
    }
    with Stack(folder, settings=settings, workers=n_workers) as stack:
        stack.wait_ready()
        sys.stderr.write(f"logs in {folder / 'logs'}\n")
        return measure(stack, n_poisons)


def is_good(figures: dict[str, Any]) -> bool:
    """Judge what was measured."""
    n = figures["poisons"]
    all_found = (figures["succeeded"], figures["found"], figures["attempts"]) == (N_JOBS - n, n, 1)
    return all_found and figures["further_deaths"] <= MOST_DEATHS[n]


def main(n_poisons: int = 1, n_workers: int = 1) -> int:
    """Measure once; gives the exit code."""
    figures = run(n_poisons, n_workers)
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0 if is_good(figures) else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
