"""How throughput grows with GPUs, and what a worker's death costs: ``python -m bench.gpu.scale``.

Workers that claim a GPU each are measured, then one is killed while all are busy, then one alone of those that are left, all in
one run on one machine; nothing is loaded twice. One JSON line comes last.
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
from bench.gpu.__main__ import WARM
from bench.gpu.cases import MIDDLE, Case
from bench.gpu.figures import machine, rate, whole_rate
from bench.gpu.meter import Meter
from bench.gpu.ways import Service, service_clients
from shared.settings import DEMO_MODEL

KILL_AFTER_S = 4.0


class Killer(threading.Thread):
    """Kills one worker while it works."""

    def __init__(self, service: Service, pid: int) -> None:
        """Choose the victim."""
        super().__init__(daemon=True)
        self._service, self._pid = service, pid

    def run(self) -> None:
        """Wait until they work, and a while, then kill."""
        while not all(worker["engine_running"] for worker in self._service.workers()):
            time.sleep(0.1)
        time.sleep(KILL_AFTER_S)
        self.at_s = time.time()
        os.kill(self._pid, signal.SIGKILL)


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


class Scale:
    """Measures a service with workers on several GPUs, and on one."""

    def __init__(self, service: Service, files: list[Path], gpus: int) -> None:
        """Take what is to be measured: so many of the files for each GPU."""
        self._service, self._files, self._gpus = service, files, gpus
        self.per_s, self.whole_per_s, self.lost = dict[str, float](), dict[str, float](), 0

    def start_workers(self) -> list[dict[str, Any]]:
        """Start a worker for each GPU, wait for them and warm them up; gives their notices."""
        for n in range(self._gpus):
            self._service.stack.spawn(f"worker-{n}", "worker.main", "jobs")
        self._service.ready_all(self._gpus)
        self._service.run(WARM, WARM.files(self._service.stack.folder / "files") * self._gpus)
        return self._service.workers()

    def measure(self, name: str, gpus: int) -> None:
        """Run the jobs for so many GPUs."""
        files = self._files[: len(self._files) * gpus // self._gpus]
        with Meter(self._service.parts) as meter:
            ran = self._service.run(Case(name, (MIDDLE,), 128, len(files)), files, clients=gpus * service_clients())
        self.per_s[name], self.whole_per_s[name] = round(rate(ran.done), 2), round(whole_rate(ran.done), 2)
        self.lost += len(files) - len(ran.done)
        row = {"jobs": len(ran.done), "per_s": self.per_s[name], "whole_per_s": self.whole_per_s[name]}
        row |= {"stages_ms": ran.stages_ms, "running": ran.running, "cpu_s": meter.cpu_s}
        print(name, json.dumps(row), file=sys.stderr, flush=True)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=768, help="for each GPU")
    parser.add_argument("--demo", action="store_true", help="the demo model without a GPU, to try the command out")
    arguments = parser.parse_args()
    folder, n = Path(tempfile.mkdtemp(prefix="sightline-scale-")), arguments.gpus
    model = DEMO_MODEL if arguments.demo else str(shape.write(folder / "model"))
    own = {"SIGHTLINE_ENGINE": "bench.gpu.shape:ShapedEngine", "SIGHTLINE_MODEL": model}
    own |= {} if arguments.demo else {"SIGHTLINE_CLAIM_GPUS": "true"}
    service = Service(folder / "sightline", own, workers=0)
    files = Case("scale", (MIDDLE,), 128, n * arguments.jobs).files(folder / "files")
    scale, processes = Scale(service, files, n), service.stack.processes
    service.start()
    try:
        workers = scale.start_workers()
        scale.measure("all", n)
        victim = processes.pop(f"worker-{n - 1}")  # its end is no failure here
        killer = Killer(service, victim.pid)
        killer.start()
        scale.measure("killed", n)
        again = rescued(service.stack.url)
        for other in range(1, n - 1):
            processes.pop(f"worker-{other}").terminate()
        scale.measure("one", 1)
    finally:
        service.stop()
    began = (job["finished_at"] - job["output"]["timings_ms"]["total"] / 1000 for job in again)  # of the second attempt
    waited = sorted(at_s - killer.at_s for at_s in began)
    report = {
        "machine": machine(),
        "gpus": [[gpu["uuid"] for gpu in worker["gpus"]] for worker in workers],
        "per_s": scale.per_s,
        "whole_per_s": scale.whole_per_s,
        "of_linear": round(scale.per_s["all"] / (n * scale.per_s["one"]), 3),
        "whole_of_linear": round(scale.whole_per_s["all"] / (n * scale.whole_per_s["one"]), 3),
        "lost": scale.lost,
        "rescued": len(again),
        "taken_over_s": [round(s, 1) for s in (waited[:1] + waited[-1:])],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
