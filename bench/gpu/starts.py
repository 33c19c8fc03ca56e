"""What the start of an engine took, by phase, as its log says: ``python -m bench.gpu.starts`` starts a worker again and again.

The first start finds no compiled code, the later ones that of the first. The weights are the dummies of :mod:`bench.gpu`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.gpu import shape
from bench.gpu.figures import machine
from bench.gpu.ways import Service
from shared.settings import DEMO_MODEL

#: Lines of vLLM's log and of ours with the seconds of a phase in them.
PHASES = {
    "weights": re.compile(r"Model loading took \S+ GiB memory and ([\d.]+) s"),
    "compile": re.compile(r"torch\.compile (?:and initial profiling/warmup run together )?took ([\d.]+) s in total"),
    "graphs": re.compile(r"Graph capturing finished in ([\d.]+) s"),
    "engine's own": re.compile(r"init engine \(.*?\) took ([\d.]+) s"),
    "engine": re.compile(r'"seconds": ([\d.]+), .*"event": "engine\.ready"|"event": "engine\.ready", .*"seconds": ([\d.]+)'),
}
#: Where compiled code is kept, by the variables of those who keep it.
CACHES = ("VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")


def phases(log: str) -> dict[str, float]:
    """Give the seconds of each phase that a log tells of; a phase that comes several times is summed."""
    found = {name: [float(next(filter(None, match.groups()))) for match in line.finditer(log)] for name, line in PHASES.items()}
    return {name: round(sum(seconds), 1) for name, seconds in found.items() if seconds}


def start(folder: Path, settings: dict[str, str]) -> dict[str, Any]:
    """Start the service, ask it for nothing, and stop it; gives seconds until it was ready, and those of each phase."""
    service, began = Service(folder, settings), time.monotonic()
    try:
        service.start()
        service.ready()
        ready_s = time.monotonic() - began
    finally:
        service.stop()
    return {"ready": round(ready_s, 1), **phases(service.log.read_text(errors="replace"))}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--demo", action="store_true", help="the demo model without a GPU, to try the command out")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sightline-starts-"))
    model = DEMO_MODEL if arguments.demo else str(shape.write(folder / "model"))
    os.environ |= {name: str(folder / "compiled" / name.lower()) for name in CACHES}
    print(json.dumps(machine()), flush=True)
    for n in range(arguments.starts):
        settings = {"SIGHTLINE_ENGINE": "bench.gpu.shape:ShapedEngine", "SIGHTLINE_MODEL": model}
        print(json.dumps({"start": n + 1, **start(folder / str(n), settings)}), flush=True)


if __name__ == "__main__":
    main()
