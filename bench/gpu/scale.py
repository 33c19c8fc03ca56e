"""How throughput grows with GPUs, and what the death of an engine costs: ``python -m bench.gpu.scale``.

Sightline with a worker for each GPU is measured beside ``vllm serve`` with an engine for each, one after the other, all on one
machine. Then one worker, and one engine of the server, is killed while all are busy: how many requests are answered, how many
are lost, and after how many seconds the rate is back. A worker is started again, as ``up`` does it. Last, one worker alone. One
JSON line comes last.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from bench.gpu import shape
from bench.gpu.__main__ import DEMO_SHARE, WARM
from bench.gpu.cases import MIDDLE, TINY, Case
from bench.gpu.clients import service_clients
from bench.gpu.figures import machine, rate, whole_rate
from bench.gpu.ways import Done, Ran, Server, Service
from shared.settings import DEMO_MODEL, Settings
from sightline.stack import DEMO_ENGINE

KILL_AFTER_S = 4.0
ROUNDS_WHEN_KILLED = 6  #: of the same files, so that it lasts until the worker that is started again is ready; no cache is on
BACK, LOOK_S = 0.9, 4.0  #: the rate is back where so large a share of it is reached for so long


def back_after_s(done: list[Done], killed_at_s: float, per_s: float) -> float | None:
    """Give the seconds from a death until the rate before it was reached again; None where it never was."""
    ends = sorted(ended for _, ended, _ in done if ended > killed_at_s)
    wanted = max(2, round(BACK * per_s * LOOK_S))
    for first, last in zip(ends, ends[wanted - 1 :], strict=False):
        if last - first <= LOOK_S:
            return round(first - killed_at_s, 1)
    return None


def row(asked: int, ran: Ran) -> dict[str, Any]:
    """Say what came of so many requests."""
    per_s, whole_per_s = (round(rate(ran.done), 2), round(whole_rate(ran.done), 2)) if ran.done else (0.0, 0.0)
    answered = len(ran.done)
    return {"asked": asked, "answered": answered, "lost": asked - answered, "per_s": per_s, "whole_per_s": whole_per_s}


@dataclass(frozen=True)
class Victim:
    """A process that is killed while its service works.

    Args:
        is_busy: whether all engines work.
        find: gives its pid.
        mind: called again and again afterwards.
    """

    is_busy: Callable[[], bool]
    find: Callable[[], int]
    mind: Callable[[], object]


def killed(victim: Victim, run: Callable[[], Ran], asked: int, per_s: float) -> dict[str, Any]:
    """Run while one engine is killed."""
    with ThreadPoolExecutor(1) as pool:  # what minds starts processes, which end with the thread that started them
        running = pool.submit(run)
        while not victim.is_busy() and not running.done():
            time.sleep(0.1)
        time.sleep(KILL_AFTER_S)
        at_s = time.time()
        os.kill(victim.find(), signal.SIGKILL)
        while not running.done():
            victim.mind()
            time.sleep(0.3)
    ran = running.result()
    under_way = sum(began < at_s < ended for began, ended, _ in ran.done)
    return row(asked, ran) | {"under_way_and_answered": under_way, "back_after_s": back_after_s(ran.done, at_s, per_s)}


def measure_service(service: Service, case: Case, files: list[Path], gpus: int) -> dict[str, Any]:
    """Measure Sightline with all its workers, while one is killed, and with one."""
    service.start()
    try:
        service.ready_all(gpus)
        service.run(WARM, WARM.files(service.stack.folder / "files") * gpus)
        found: dict[str, Any] = {"gpus": [worker["gpus"] for worker in service.workers()]}
        found["all"] = row(len(files), service.run(case, files))
        many = files * ROUNDS_WHEN_KILLED
        victim = Victim(
            lambda: all(worker["engine_running"] for worker in service.workers()),
            lambda: service.stack.processes[f"worker-{gpus - 1}"].pid,
            service.stack.check,
        )
        found["killed"] = killed(victim, lambda: service.run(case, many), len(many), found["all"]["per_s"])
        for n in range(1, gpus):
            service.stack.processes.pop(f"worker-{n}").terminate()
        few = files[: len(files) // gpus]
        found["one"] = row(len(few), service.run(case, few, clients=service_clients()))
    finally:
        service.stop()
    return found


def measure_server(server: Server, case: Case, files: list[Path]) -> dict[str, Any]:
    """Measure ``vllm serve`` with all its engines, and while one is killed."""
    server.start()
    try:
        server.ready()
        server.run(WARM, WARM.files(files[0].parent))
        found: dict[str, Any] = {"all": row(len(files), server.run(case, files))}
        assert server.process  # noqa: S101  # it was started
        parent, many = psutil.Process(server.process.pid), files * ROUNDS_WHEN_KILLED

        def engine() -> int:
            cores = [child.pid for child in parent.children(recursive=True) if "EngineCore" in " ".join(child.cmdline())]
            return cores[-1] if cores else parent.pid

        victim = Victim(lambda: True, engine, lambda: None)
        found["killed"] = killed(victim, lambda: server.run(case, many, may_fail=True), len(many), found["all"]["per_s"])
        found["killed"]["still_runs"] = server.process.poll() is None
    finally:
        server.stop()
    return found


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=768, help="for each GPU")
    parser.add_argument("--demo", action="store_true", help="the demo model without a GPU, to try the command out")
    arguments = parser.parse_args()
    folder, n = Path(tempfile.mkdtemp(prefix="sightline-scale-")), 1 if arguments.demo else arguments.gpus
    model = DEMO_MODEL if arguments.demo else str(shape.write(folder / "model"))
    own = {"SIGHTLINE_ENGINE": "bench.gpu.shape:ShapedEngine", "SIGHTLINE_MODEL": model}
    own |= DEMO_ENGINE | DEMO_SHARE if arguments.demo else {"SIGHTLINE_CLAIM_GPUS": "true"}
    case = TINY[0] if arguments.demo else Case("scale", (MIDDLE,), 128, n * arguments.jobs)
    files = replace(case, count=min(case.count, n * arguments.jobs)).files(folder / "files")
    os.environ |= own
    pixels = {} if arguments.demo else {"min_pixels": Settings().min_pixels, "max_pixels": Settings().max_pixels}
    engine = shape.ShapedEngine(Settings()).arguments() | ({} if n == 1 else {"data_parallel_size": n})
    service = measure_service(Service(folder / "sightline", own, workers=n), case, files, n)
    print(json.dumps({"sightline": service}), file=sys.stderr, flush=True)
    server = measure_server(Server(folder / "serve", {**os.environ}, engine, pixels), case, files)
    of_linear = round(service["all"]["per_s"] / (n * service["one"]["per_s"]), 3)
    print(json.dumps({"machine": machine(), "sightline": service, "serve": server, "of_linear": of_linear}))


if __name__ == "__main__":
    main()
