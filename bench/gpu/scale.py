"""How throughput grows with GPUs, and what a worker's death costs: ``python -m bench.gpu.scale``.

One worker for each GPU is measured, then one of them is killed while all are busy, then a single one is measured, all in one
run on one machine. One JSON line comes last.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from bench.gpu import shape
from bench.gpu.__main__ import WARM, machine, rate
from bench.gpu.cases import MIDDLE, Case
from bench.gpu.meter import Meter
from bench.gpu.ways import CLIENTS, Service
from shared.settings import DEMO_MODEL

KILL_AFTER_S = 6.0


class Killer(threading.Thread):
    """Kills one worker after a while, and notes which jobs were being run."""

    def __init__(self, service: Service, name: str) -> None:
        """Choose the victim."""
        super().__init__(daemon=True)
        self._service, self._name = service, name

    def run(self) -> None:
        """Wait, look, kill."""
        time.sleep(KILL_AFTER_S)
        self.at_s = time.time()
        os.kill(self._service.stack.processes[self._name].pid, signal.SIGKILL)


def rescued(url: str) -> list[dict[str, Any]]:
    """Give the jobs that needed a second attempt."""
    found, cursor = list[dict[str, Any]](), None
    with httpx.Client(trust_env=False, timeout=60) as client:
        while True:
            page = client.get(f"{url}/v1/jobs", params={"limit": 100} | ({"after": cursor} if cursor else {})).json()
            found += [job for job in page["data"] if job["attempt"] > 1]
            if not page.get("has_more"):
                return found
            cursor = page["data"][-1]["id"]


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=512, help="for each GPU")
    parser.add_argument("--demo", action="store_true", help="the demo model without a GPU, to try the command out")
    arguments = parser.parse_args()
    folder, n = Path(tempfile.mkdtemp(prefix="sightline-scale-")), arguments.gpus
    model = DEMO_MODEL if arguments.demo else str(shape.write(folder / "model"))
    own = {"SIGHTLINE_ENGINE": "bench.gpu.shape:ShapedEngine", "SIGHTLINE_MODEL": model}
    own |= {} if arguments.demo else {"SIGHTLINE_CLAIM_GPUS": "true"}
    service = Service(folder / "sightline", own, workers=n)
    cases = {name: Case(name, (MIDDLE,), 128, arguments.jobs * m) for name, m in (("all", n), ("killed", n), ("one", 1))}
    files = {name: case.files(folder / "files") for name, case in cases.items()}
    service.start()
    try:
        service.ready_all(n)
        service.run(WARM, WARM.files(folder / "files") * n)
        per_s, lost = {}, 0
        for name, clients in (("all", n * CLIENTS), ("killed", n * CLIENTS), ("one", CLIENTS)):
            if name == "killed":
                killer = Killer(service, f"worker-{n - 1}")
                killer.start()
            with Meter(service.parts) as meter:
                ran = service.run(cases[name], files[name], clients=clients)
            per_s[name] = round(rate(ran.done), 2)
            lost += len(files[name]) - len(ran.done)
            told = {"jobs": len(ran.done), "per_s": per_s[name], "stages_ms": ran.stages_ms, "running": ran.running}
            print(name, json.dumps(told | {"cpu_s": meter.cpu_s}), file=sys.stderr, flush=True)
        again = rescued(service.stack.url)
        waited = sorted(job["started_at"] - killer.at_s for job in again)
    finally:
        service.stop()
    share = round(per_s["all"] / (n * per_s["one"]), 3) if n == 2 else None  # noqa: PLR2004  # with two, one is left
    took = {"rescued": len(again), "taken_over_s": [round(s, 1) for s in (waited[:1] + waited[-1:])]}
    print(json.dumps({"machine": machine(), "per_s": per_s, "of_linear": share, "lost": lost, **took}))


if __name__ == "__main__":
    main()
