"""Settings of one engine beside others, all on one GPU: ``python -m bench.gpu.tune NAME=JSON NAME=JSON …``.

Each variant is the engine alone, see ``direct`` in :mod:`bench.gpu`, with the variables of its JSON set. As many as share the
GPU's memory are loaded beside each other, render their inputs at the same time, and are measured one after another, in turns.
A variant may have two keys of its own: ``engines``, which share the card and have a part of the files each, and ``mps``, with
which CUDA's daemon lets their kernels run at the same time. One line of JSON is printed for each figure.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.gpu import shape
from bench.gpu.__main__ import WARM, read_cases, read_variables
from bench.gpu.cases import Case
from bench.gpu.figures import machine, rate, whole_rate
from bench.gpu.meter import Meter
from bench.gpu.ways import Child, Done

#: Of a card of 80 GB: the cache of 256 answers of 1,182 tokens, and what vLLM wants to see free.
SHARE = {"SIGHTLINE_KV_CACHE_GB": "11.5", "SIGHTLINE_GPU_MEMORY_UTILIZATION": "0.2"}
GONE_S = 3.0  #: a killed engine's memory is free after this


@dataclass
class Variant:
    """One or more engines with the same settings."""

    name: str
    settings: dict[str, str]
    engines: int = 1
    mps: bool = False
    children: list[Child] = field(default_factory=list)

    def start(self, folder: Path) -> None:
        """Start to load."""
        mps = mps_environment(folder) if self.mps else {}
        own = {**SHARE, **os.environ, **self.settings, **mps}
        self.children = [Child(f"{self.name}-{n}", "async", folder, own) for n in range(self.engines)]
        for child in self.children:
            child.start()

    def each(self, step: str, case: Case, files: list[Path]) -> list[Done]:
        """Let each engine do something with its part of the files, at the same time."""
        parts = [files[n :: self.engines] for n in range(self.engines)]
        with ThreadPoolExecutor(self.engines) as pool:
            ran = pool.map(lambda child, part: child.way(step)(case, part), self.children, parts)
            return [done for each in ran for done in each.done]


def mps_environment(folder: Path) -> dict[str, str]:
    """Start CUDA's daemon; gives the variables of its clients."""
    own = {"CUDA_MPS_PIPE_DIRECTORY": str(folder / "mps"), "CUDA_MPS_LOG_DIRECTORY": str(folder / "mps-log")}
    if not (folder / "mps").exists():
        for place in own.values():
            Path(place).mkdir(parents=True)
        subprocess.run(["nvidia-cuda-mps-control", "-d"], env={**os.environ, **own}, check=True)  # noqa: S607
    return own


def said(case: Case, variant: Variant, done: list[Done], meter: Meter) -> dict[str, Any]:
    """Make a line of the report."""
    return {
        "case": case.name,
        "variant": variant.name,
        "jobs": len(done),
        "short": sum(tokens != case.tokens for _, _, tokens in done),
        "whole_per_s": round(whole_rate(done), 2),
        "per_s": round(rate(done), 2),
        "gpu_percent": meter.gpu_mean_percent,
    }


def measure(group: list[Variant], cases: list[Case], folder: Path, rounds: int) -> None:
    """Measure those that are loaded beside each other."""
    with ThreadPoolExecutor(len(group)) as pool:
        for case in cases:
            files = case.files(folder / "files")
            list(pool.map(lambda variant, case=case, files=files: variant.each("prepare", case, files), group))
            for variant in group * rounds:
                with Meter({}) as meter:
                    done = variant.each("saturated", case, files)
                print(json.dumps(said(case, variant, done, meter)), flush=True)


def load(group: list[Variant], folder: Path) -> list[Variant]:
    """Load engines beside each other, and warm them up; gives those that could."""
    began, ready = time.monotonic(), list[Variant]()
    for variant in group:
        variant.start(folder)
    children = [(variant, child) for variant in group for child in variant.children]
    with ThreadPoolExecutor(len(children)) as pool:  # each loads when it is asked whether it is ready
        outcomes = [(variant, pool.submit(child.ready)) for variant, child in children]
    failed = {variant.name: str(outcome.exception()) for variant, outcome in outcomes if outcome.exception()}
    for variant in group:
        if variant.name in failed:
            print(json.dumps({"variant": variant.name, "failed": failed[variant.name][-1500:]}), flush=True)
            unload([variant])
        else:
            ready.append(variant)
    loaded_s = time.monotonic() - began
    with ThreadPoolExecutor(len(group)) as pool:
        list(pool.map(lambda variant: variant.each("saturated", WARM, WARM.files(folder / "files")), ready))
    warm_s = time.monotonic() - began
    print(json.dumps({"loaded": [v.name for v in ready], "s": round(loaded_s), "warm_s": round(warm_s)}), flush=True)
    return ready


def unload(group: list[Variant]) -> None:
    """End engines."""
    for variant in group:
        for child in variant.children:
            child.stop()
    time.sleep(GONE_S)


def groups(variants: list[Variant], beside: int) -> list[list[Variant]]:
    """Put variants together whose engines fit beside each other."""
    found: list[list[Variant]] = [[]]
    for variant in variants:
        if found[-1] and sum(v.engines for v in found[-1]) + variant.engines > beside:
            found.append([])
        found[-1].append(variant)
    return found


def parse(given: str) -> Variant:
    """Read ``NAME=JSON``."""
    name, own = read_variables(given)
    engines, mps = own.pop("engines", 1), own.pop("mps", False)
    return Variant(
        name, {key: value if isinstance(value, str) else json.dumps(value) for key, value in own.items()}, engines, mps
    )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="+", type=parse, metavar="NAME=JSON")
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--cases", type=read_cases, default="448-128,1024-128,448-16", help="as of bench.gpu")
    parser.add_argument("--beside", type=int, default=3, help="engines that are loaded beside each other")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--for-s", type=float, default=1e9, help="begin no other group after so many seconds")
    parser.add_argument("--demo", action="store_true", help="the demo model without a GPU, to try the command out")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="sightline-tune-"))
    folder.mkdir(parents=True, exist_ok=True)
    cases = [case for case, _ in arguments.cases]
    os.environ["SIGHTLINE_ENGINE"] = "bench.gpu.shape:ShapedEngine"
    if arguments.demo:
        from bench.gpu.cases import TINY
        from sightline.stack import DEMO_ENGINE

        cases = list(TINY[:1])
        os.environ |= DEMO_ENGINE | {"SIGHTLINE_KV_CACHE_GB": "1"}
    else:
        os.environ["SIGHTLINE_MODEL"] = str(shape.write(folder / "model"))
    began = time.monotonic()
    drawing = threading.Thread(target=lambda: [case.files(folder / "files") for case in (WARM, *cases)])
    drawing.start()
    print(json.dumps(machine()), flush=True)
    loaded: list[Variant] = []
    try:
        for group in groups(arguments.variants, arguments.beside):
            if time.monotonic() - began > arguments.for_s:
                print(json.dumps({"left out": [variant.name for variant in group]}), flush=True)
                continue
            loaded = group
            ready = load(group, folder)
            drawing.join()
            measure(ready, cases, folder, arguments.rounds)
            unload(ready)
            loaded = []
    finally:
        unload(loaded)
        if (folder / "mps").exists():
            subprocess.run(["nvidia-cuda-mps-control"], input=b"quit\n", env=os.environ | mps_environment(folder), check=False)  # noqa: S607
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
