"""Sightline beside the other ways to run the same model on the same GPU, all in one run on one machine.

``python -m bench.gpu`` loads an engine for each way, then measures case by case, one way after another:

    script     (a) one call at a time, as in the script that people have
    task       (b) a Celery worker of one process that calls the model in its task
    set        (c) ``LLM.generate`` on the whole set
    direct     (d) the engine itself, with inputs rendered in advance: the ceiling
    serve      (e) ``vllm serve`` with its caches off and several API servers
    sightline  (f) HTTP, Valkey, Celery, engine, output by long-poll; and by webhooks
    one-front  the same with one process in front of its engine, to see what several are good for
    serve-dp, sightline-dp  (e) and (f) with an engine on each GPU, where there are several

It writes ``report.json`` and ``report.png``. The weights are dummies of the shape of Qwen2.5-VL-3B, answers have fixed lengths.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.gpu import plot, shape
from bench.gpu.cases import CASES, MIDDLE, SMALL, TINY, Case
from bench.gpu.meter import Meter
from bench.gpu.ways import CLIENTS, Child, Done, Ran, Server, Service, Way
from shared.settings import DEMO_MODEL, Settings
from sightline.stack import DEMO_ENGINE

WAYS = ("script", "task", "set", "direct", "serve", "sightline", "webhooks", "one-front")
ON_ALL_GPUS = ("serve-dp", "sightline-dp")
#: What three engines at a time can have of a GPU of 80 GB: the cache of 256 answers of 1,182 tokens, and what vLLM wants to see
#: free. With 14 GB each they did not fit once pictures of 2048 x 1536 came.
SHARE = {"SIGHTLINE_KV_CACHE_GB": "11.5", "SIGHTLINE_GPU_MEMORY_UTILIZATION": "0.2"}
DEMO_SHARE = {"SIGHTLINE_GPU_MEMORY_UTILIZATION": "0.1"}  #: of the machine's memory, which they share as well
#: The slow ways get a few pictures, and only of the middle case.
SLOW = {"script": 12, "task": 12, "set": 256}
SLOW_CASES = ("1024-128", "tiny-16")
UNLOADED = 60  #: jobs one after another, for the latency of the path
UNLOADED_TOKENS = 16
#: Before anything is measured, each engine answers these: kernels are compiled when a shape is first seen.
WARM = Case("warm", (SMALL, MIDDLE), 16, 48)
WARM_CLIPS = Case("warm-clips", ((448, 336),), 16, 16, is_clips=True)


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


def percentiles(values: list[float]) -> dict[str, float]:
    """Give the 50th, 95th and 99th."""
    ordered = sorted(values)
    return {f"p{p}": round(ordered[min(len(ordered) - 1, len(ordered) * p // 100)], 1) for p in (50, 95, 99)}


def row(case: Case, way: str, ran: Ran, meter: Meter) -> dict[str, Any]:
    """Make one row of the report."""
    first_s = min(began for began, _, _ in ran.done)
    return {
        "case": case.name,
        "way": way,
        "jobs": len(ran.done),
        "short": sum(tokens != case.tokens for _, _, tokens in ran.done),  # must be 0, else it is not comparable
        "per_s": round(whole_rate(ran.done) if way in SLOW else rate(ran.done), 2),
        "whole_per_s": round(whole_rate(ran.done), 2),
        "latency_ms": percentiles([1000 * (ended - began) for began, ended, _ in ran.done]),
        "gpu_percent": meter.gpu_mean_percent,
        "cpu_ms_per_job": {part: round(1000 * s / len(ran.done), 1) for part, s in meter.cpu_s.items() if s},
        "stages_ms": ran.stages_ms,
        "running": ran.running,
        "ends_s": [round(ended - first_s, 2) for ended in sorted(ended for _, ended, _ in ran.done)],
    }


@dataclass(frozen=True)
class Plan:
    """How a way is measured."""

    part: Way  #: what has to be started for it
    run: Callable[[Case, list[Path]], Ran]
    prepare: Callable[[Case, list[Path]], object] | None = None  #: before the clock starts


class Bench:
    """Starts the ways and measures them."""

    def __init__(self, folder: Path, ways: list[str], model: Path | None, tuned: dict[str, dict[str, str]], gpus: int) -> None:
        """Decide on settings: the workers' own defaults, and a share of the GPU's memory for each engine."""
        self.folder, self.rows, self.started = folder, list[dict[str, Any]](), list[Way]()
        demo = model is None
        settings = {
            "SIGHTLINE_ENGINE": "bench.gpu.shape:ShapedEngine",
            "SIGHTLINE_MODEL": DEMO_MODEL if demo else str(model),
            **(DEMO_ENGINE | DEMO_SHARE if demo else SHARE),
        }
        environment = {**os.environ, **settings}
        service = self.service = Service(folder / "sightline", settings)
        one_front = Service(folder / "one-front", settings | {"SIGHTLINE_ENGINE_FRONTS": "1"})
        broker = {"BENCH_BROKER": service.stack.environment["SIGHTLINE_REDIS_URL"]}
        llm = Child("llm", "llm", folder, environment | broker)
        os.environ.update(settings)
        arguments = shape.ShapedEngine(Settings()).arguments()
        pixels = {"min_pixels": Settings().min_pixels, "max_pixels": Settings().max_pixels}
        server = Server(folder, environment, arguments, {} if demo else pixels)
        engines = {name: Child(name, "async", folder, environment | own) for name, own in ({"direct": {}} | tuned).items()}
        plans = {
            "script": Plan(llm, llm.way("one_by_one")),
            "task": Plan(llm, llm.way("celery_task")),
            "set": Plan(llm, llm.way("whole_set")),
            **{name: Plan(own, own.way("saturated"), own.way("prepare")) for name, own in engines.items()},
            "serve": Plan(server, server.run),
            "sightline": Plan(service, service.run),
            "webhooks": Plan(service, partial(service.run, webhooks=True)),
            "one-front": Plan(one_front, one_front.run),
        }
        if gpus > 1 and set(ON_ALL_GPUS) & set(ways):
            server_dp = Server(folder / "dp", environment, arguments | {"data_parallel_size": gpus}, {} if demo else pixels)
            service_dp = Service(folder / "sightline-dp", settings | {"SIGHTLINE_CLAIM_GPUS": "true"}, workers=gpus)
            plans |= {
                "serve-dp": Plan(server_dp, server_dp.run),
                "sightline-dp": Plan(service_dp, partial(service_dp.run, clients=gpus * CLIENTS)),
            }
        self.plans = {way: plans[way] for way in (*ways, *tuned)}
        self._own_latency = engines["direct"].way("one_by_one")

    def start(self) -> None:
        """Load the engines, all at the same time."""
        parts = [plan.part for plan in self.plans.values()] + ([self.service] if "task" in self.plans else [])  # its broker
        for part in dict.fromkeys(parts):
            self.started.append(part)
            part.start()
        with ThreadPoolExecutor(len(self.started)) as pool:  # an engine alone loads when it is asked whether it is ready
            outcomes = [pool.submit(part.ready) for part in self.started]
        for outcome in outcomes:
            outcome.result()

    def stop(self) -> None:
        """End everything that was begun, also where one of them fails at it: an engine that is left keeps its memory."""
        for part in self.started:
            try:
                part.stop()
            except Exception as error:  # noqa: BLE001  # printed, and the next one is ended
                print(f"cannot stop {part}: {error!r}", file=sys.stderr, flush=True)

    def warm_up(self) -> None:
        """Let each engine see each shape once."""
        ways = {plan.part: way for way, plan in self.plans.items()}  # one for each
        for case in (WARM, WARM_CLIPS):
            files = case.files(self.folder / "files")
            for way in ways.values():
                if not (case.is_clips and way in SLOW):  # those are never measured with clips
                    self.plans[way].run(case, files)

    def measure(self, case: Case, ways: set[str]) -> None:
        """Measure one case in those of the ways that take part."""
        files = case.files(self.folder / "files")
        for way in self.plans:
            few = {**dict.fromkeys(SLOW, SLOW_CASES), "webhooks": SLOW_CASES}.get(way)
            if way in ways and (few is None or case.name in few):
                self._measure(case, way, files[: SLOW.get(way, len(files))])

    def _measure(self, case: Case, way: str, files: list[Path]) -> None:
        plan = self.plans[way]
        try:
            if plan.prepare:
                plan.prepare(case, files)
            with Meter(plan.part.parts) as meter:
                ran = plan.run(case, files)
        except Exception as error:  # noqa: BLE001  # one way that fails must not cost the others their figures
            print(f"{case.name} {way} failed: {error!r}", file=sys.stderr, flush=True)
            return
        self.rows.append(row(case, way, ran, meter))
        shown = {
            name: self.rows[-1][name]
            for name in ("case", "way", "jobs", "short", "per_s", "whole_per_s", "latency_ms", "gpu_percent")
        }
        print(json.dumps(shown | {"stages": ran.stages_ms, "cpu": self.rows[-1]["cpu_ms_per_job"]}), flush=True)
        self.write()

    def measure_unloaded(self, size_px: tuple[int, int]) -> None:
        """Measure what the whole path adds to the latency of the engine alone: one job at a time, in turn, the same picture."""
        if not {"direct", "sightline"} <= self.plans.keys():
            return
        own = Case(f"unloaded-{size_px[0]}", (size_px,), UNLOADED_TOKENS, UNLOADED)
        ran = {"direct": list[Ran](), "sightline": list[Ran]()}
        with Meter({}) as meter:
            for file in own.files(self.folder / "files"):
                ran["direct"].append(self._own_latency(own, [file]))
                ran["sightline"].append(self.service.run(own, [file], clients=1))
        latencies_ms = {way: [1000 * (r.done[0][1] - r.done[0][0]) for r in each] for way, each in ran.items()}
        added_ms = percentiles([f - d for f, d in zip(latencies_ms["sightline"], latencies_ms["direct"], strict=True)])
        stages = [each.stages_ms for each in ran["sightline"]]
        means = {name: round(statistics.mean(stage[name] for stage in stages), 1) for name in stages[0]}
        for way, each in ran.items():
            whole = Ran([done for one in each for done in one.done], stages_ms=means if way == "sightline" else {})
            self.rows.append(row(own, way, whole, meter))
        self.rows[-1]["added_ms"] = added_ms
        print(json.dumps({f"{own.name}_added_ms": added_ms, "stages": means}), flush=True)
        self.write()

    def write(self) -> None:
        """Write what there is so far."""
        (self.folder / "report.json").write_text(json.dumps({"machine": machine(), "rows": self.rows}, indent=1))


def machine() -> dict[str, Any]:
    """Say what it ran on."""
    import torch

    from worker.engines.vllm_setup import version

    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return {"gpus": gpus, "cores": os.cpu_count(), "vllm": version(), "torch": torch.__version__, "at": time.strftime("%F %T")}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="for the report, the logs and the pictures")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--cases", default=",".join(case.name for case in CASES), help="NAME, or NAME:WAY+WAY for some ways")
    parser.add_argument("--rounds", type=int, default=1, help="measure the cases so many times, one round after another")
    parser.add_argument(
        "--tune", action="append", default=[], metavar="NAME=JSON", help="one more engine alone, with these variables set"
    )
    parser.add_argument("--demo", action="store_true", help="the demo model, which runs anywhere, to try the command out")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="sightline-gpu-"))
    folder.mkdir(parents=True, exist_ok=True)
    model = None if arguments.demo else shape.write(folder / "model")
    tuned = {name: json.loads(own) for name, _, own in (given.partition("=") for given in arguments.tune)}
    gpus = len(machine()["gpus"])
    if gpus <= 1 and set(ON_ALL_GPUS) & set(arguments.ways.split(",")):
        parser.error(f"{' and '.join(ON_ALL_GPUS)} need several GPUs; here are {gpus}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else nothing that was started would be ended
    bench = Bench(folder, arguments.ways.split(","), model, tuned, gpus)
    asked = ",".join(case.name for case in TINY) if arguments.demo else arguments.cases
    ways_of = {
        name: set(ways.split("+") if ways else bench.plans)
        for name, _, ways in (part.partition(":") for part in asked.split(","))
    }
    cases = [case for case in (*CASES, *TINY) if case.name in ways_of]
    try:
        began = time.monotonic()
        drawing = threading.Thread(target=lambda: [case.files(folder / "files") for case in (WARM, WARM_CLIPS, *cases)])
        drawing.start()
        bench.start()
        drawing.join()
        print(f"all engines loaded after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        bench.warm_up()
        print(f"warm after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        for size_px in (SMALL,) if arguments.demo else (MIDDLE, SMALL):
            bench.measure_unloaded(size_px)
        for case in cases * arguments.rounds:
            bench.measure(case, ways_of[case.name])
    finally:
        bench.stop()
    plot.draw(bench.rows, folder / "report.png")
    print(folder / "report.json")


if __name__ == "__main__":
    main()
