"""Sightline beside the other ways to run the same model on the same GPU, all in one run on one machine.

``python -m bench.gpu`` loads an engine for each way, then measures case by case, one way after another:

    script     (a) one call at a time, as in the script that people have
    task       (b) a Celery worker of one process that calls the model in its task
    set        (c) ``LLM.generate`` on the whole set
    direct     (d) the engine itself, with inputs rendered in advance: the ceiling
    serve      (e) ``vllm serve`` with its caches off and several API servers
    sightline  (f) HTTP, Valkey, Celery, engine, output by long-poll; and by webhooks
    serve-dp, sightline-dp  (e) and (f) with an engine on each GPU, where there are several

``--cases`` names them in the order in which they are measured, each with a share of its jobs and with some of the ways where
all of them would take too long: ``448-128,mix-128*0.5,2048-128*0.33:serve+sightline``. It writes ``report.json`` and
``report.png``. ``--service NAME=JSON`` adds one more (f) with these variables set, ``--tune NAME=JSON`` one more (d). The
weights are dummies of the shape of Qwen2.5-VL-3B, answers have fixed lengths.
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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.gpu import plot, shape, unloaded
from bench.gpu.cases import CASES, MIDDLE, SMALL, TINY, Case
from bench.gpu.figures import machine, percentiles, rate, whole_rate
from bench.gpu.meter import Meter
from bench.gpu.starts import phases
from bench.gpu.ways import Child, Ran, Server, Service, Way
from shared.settings import DEMO_MODEL, Settings
from sightline.stack import DEMO_ENGINE

WAYS = ("script", "task", "set", "direct", "serve", "sightline", "webhooks")
ON_ALL_GPUS = ("serve-dp", "sightline-dp")
#: What three engines at a time can have of a GPU of 80 GB: the cache of 256 answers of 1,182 tokens, and what vLLM wants to see
#: free. With 14 GB each they did not fit once pictures of 2048 x 1536 came.
SHARE = {"SIGHTLINE_KV_CACHE_GB": "11.5", "SIGHTLINE_GPU_MEMORY_UTILIZATION": "0.2"}
DEMO_SHARE = {"SIGHTLINE_GPU_MEMORY_UTILIZATION": "0.1"}  #: of the machine's memory, which they share as well
#: The slow ways get a few pictures, and only of the middle case.
SLOW = {"script": 12, "task": 12, "set": 256}
SLOW_CASES = ("1024-128", "tiny-16")
#: Before anything is measured, each engine answers these: kernels are compiled when a shape is first seen.
WARM = Case("warm", (SMALL, MIDDLE), 16, 48)
WARM_CLIPS = Case("warm-clips", ((448, 336),), 16, 16, is_clips=True)


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

    def __init__(self, folder: Path, model: Path | None, arguments: argparse.Namespace, gpus: int) -> None:
        """Decide on settings: the workers' own defaults, and a share of the GPU's memory for each engine."""
        ways: list[str] = arguments.ways
        tuned: dict[str, dict[str, str]] = dict(arguments.tune)
        services: dict[str, dict[str, str]] = dict(arguments.service)
        self.folder, self.rows, self.started = folder, list[dict[str, Any]](), list[Way]()
        demo = model is None
        settings = {
            "SIGHTLINE_ENGINE": "bench.gpu.shape:ShapedEngine",
            "SIGHTLINE_MODEL": DEMO_MODEL if demo else str(model),
            **(DEMO_ENGINE | DEMO_SHARE if demo else {name: os.environ.get(name, value) for name, value in SHARE.items()}),
        }
        environment = {**os.environ, **settings}
        service = self.service = Service(folder / "sightline", settings)
        broker = {"BENCH_BROKER": service.stack.environment["SIGHTLINE_REDIS_URL"]}
        llm = Child("llm", "llm", folder, environment | broker)
        os.environ.update(settings)
        engine_arguments = shape.ShapedEngine(Settings()).arguments()
        pixels = {"min_pixels": Settings().min_pixels, "max_pixels": Settings().max_pixels}
        server = self.server = Server(folder, environment, engine_arguments, {} if demo else pixels)
        engines = {name: Child(name, "async", folder, environment | own) for name, own in ({"direct": {}} | tuned).items()}
        plans = {
            "script": Plan(llm, llm.way("one_by_one")),
            "task": Plan(llm, llm.way("celery_task")),
            "set": Plan(llm, llm.way("whole_set")),
            **{name: Plan(own, own.way("saturated"), own.way("prepare")) for name, own in engines.items()},
            "serve": Plan(server, server.run),
            "sightline": Plan(service, service.run),
            "webhooks": Plan(service, partial(service.run, webhooks=True)),
        }
        for name, own in services.items():
            another = Service(folder / name, settings | own)
            plans[name] = Plan(another, another.run)
        if gpus > 1 and set(ON_ALL_GPUS) & set(ways):
            server_dp = Server(
                folder / "dp", environment, engine_arguments | {"data_parallel_size": gpus}, {} if demo else pixels
            )
            service_dp = Service(folder / "sightline-dp", settings | {"SIGHTLINE_CLAIM_GPUS": "true"}, workers=gpus)
            plans |= {
                "serve-dp": Plan(server_dp, server_dp.run),
                "sightline-dp": Plan(service_dp, service_dp.run),
            }
        self.plans = {way: plans[way] for way in (*ways, *services, *tuned)}
        self._own_latency = engines["direct"].way("one_by_one")

    def start(self) -> None:
        """Load the engines, all at the same time."""
        parts = [plan.part for plan in self.plans.values()] + ([self.service] if "task" in self.plans else [])  # its broker
        began = time.monotonic()

        def wait(part: Way) -> None:
            part.ready()
            ways = [way for way, plan in self.plans.items() if plan.part is part]
            said = {"loaded": ways, "s": round(time.monotonic() - began, 1)}
            print(json.dumps(said | phases(part.log.read_text(errors="replace"))), flush=True)

        for part in dict.fromkeys(parts):
            self.started.append(part)
            part.start()
        with ThreadPoolExecutor(len(self.started)) as pool:  # an engine alone loads when it is asked whether it is ready
            outcomes = [pool.submit(wait, part) for part in self.started]
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
        """Let each engine see each shape once, all at the same time."""
        ways = {plan.part: way for way, plan in self.plans.items()}  # one for each
        for case in (WARM, WARM_CLIPS):
            files = case.files(self.folder / "files")
            own = [way for way in ways.values() if not (case.is_clips and way in SLOW)]  # those are never measured with clips
            with ThreadPoolExecutor(len(ways)) as pool:
                list(pool.map(lambda way, case=case, files=files: self.plans[way].run(case, files), own))

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

    def measure_unloaded(self, size_px: tuple[int, int], pairs: int) -> None:
        """Measure one job at a time, by each of the ways that serve single requests."""
        asks: dict[str, unloaded.Ask] = {
            "direct": self._own_latency,
            "serve": partial(self.server.run, clients=1),
            "sightline": partial(self.service.run, clients=1),
        }
        for found in unloaded.measure(
            size_px, {way: ask for way, ask in asks.items() if way in self.plans}, self.folder / "files", pairs
        ):
            self.rows.append(found)
            print(json.dumps(found), flush=True)
        self.write()

    def write(self) -> None:
        """Write what there is so far."""
        (self.folder / "report.json").write_text(json.dumps({"machine": machine(), "rows": self.rows}, indent=1))


def read_cases(given: str) -> list[tuple[Case, set[str]]]:
    """Read ``NAME[*SHARE][:WAY+WAY],…``: cases with the jobs that are left of them, and their ways, none for all."""
    known, found = {case.name: case for case in (*CASES, *TINY)}, list[tuple[Case, set[str]]]()
    for part in given.split(","):
        named, _, ways = part.partition(":")
        name, _, share = named.partition("*")
        case = known[name]
        found.append((replace(case, count=round(case.count * float(share or 1))), set(filter(None, ways.split("+")))))
    return found


def read_variables(given: str) -> tuple[str, dict[str, str]]:
    """Read ``NAME=JSON``: a way's name, and variables, none where there is only a name."""
    name, _, text = given.partition("=")
    return name, json.loads(text or "{}")


def arguments_of() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="for the report, the logs and the pictures")
    parser.add_argument("--ways", type=lambda given: given.split(","), default=list(WAYS))
    parser.add_argument(
        "--cases", type=read_cases, default=[(case, set[str]()) for case in CASES], metavar="NAME,…", help="see above"
    )
    parser.add_argument("--rounds", type=int, default=1, help="measure the cases so many times, one round after another")
    parser.add_argument("--pairs", type=int, default=200, help="pictures one at a time, of each size")
    parser.add_argument("--for-s", type=float, default=1e9, help="begin nothing after so many seconds")
    for name, what in (("--tune", "engine alone"), ("--service", "whole service")):
        parser.add_argument(
            name, type=read_variables, action="append", default=[], metavar="NAME=JSON", help=f"one more {what}, so set"
        )
    parser.add_argument("--demo", action="store_true", help="the demo model, which runs anywhere, to try the command out")
    arguments = parser.parse_args()
    if arguments.demo:
        arguments.cases = [(case, set[str]()) for case in TINY]
    if len(machine()["gpus"]) <= 1 and set(ON_ALL_GPUS) & set(arguments.ways):
        parser.error(f"{' and '.join(ON_ALL_GPUS)} need several GPUs")
    return arguments


def main() -> None:
    """Measure."""
    began, arguments = time.monotonic(), arguments_of()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="sightline-gpu-"))
    folder.mkdir(parents=True, exist_ok=True)
    model = None if arguments.demo else shape.write(folder / "model")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else nothing that was started would be ended
    bench = Bench(folder, model, arguments, len(machine()["gpus"]))
    cases = [case for case, _ in arguments.cases]
    try:
        drawing = threading.Thread(target=lambda: [case.files(folder / "files") for case in (WARM, WARM_CLIPS, *cases)])
        drawing.start()
        bench.start()
        drawing.join()
        bench.warm_up()
        print(f"warm after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        for size_px in (SMALL,) if arguments.demo else (SMALL, MIDDLE):
            bench.measure_unloaded(size_px, arguments.pairs)
        for case, ways in arguments.cases * arguments.rounds:
            if time.monotonic() - began < arguments.for_s:
                bench.measure(case, ways or set(bench.plans))
    finally:
        bench.stop()
    plot.draw(bench.rows, folder / "report.png")
    print(folder / "report.json")


if __name__ == "__main__":
    main()
