"""Two workers of different speed on one queue: how full each of them is, without a GPU.

``.venv/bin/python -m bench.uneven`` starts the real gateway, Valkey and two Celery workers with the engine double of the
tests, one of which takes four times as long for each job, and submits a backlog. Each could do S / T jobs a second. The workers
know nothing of each other: each asks for a job when it has a place for one. One JSON line comes last.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bench.load import fire, post
from bench.queue import STEADY, Slots, outputs, tiny, wait_for
from sightline.stack import Stack


class Uneven(Slots):
    """The double, which takes as many times as long as the variable ``BENCH_SLOWER`` says."""

    async def _pass(self, seconds: float, request: Any) -> None:
        await super()._pass(seconds * float(os.environ["BENCH_SLOWER"]), request)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=1.0, help="what a job takes in a slot of the fast worker")
    parser.add_argument("--slower", type=float, nargs="+", default=[1, 4], help="how many times as long, for each worker")
    parser.add_argument("--for-s", type=float, default=60.0, help="as long as the backlog should last")
    arguments = parser.parse_args()
    ideal = [arguments.slots / arguments.seconds / slower for slower in arguments.slower]
    count = round(sum(ideal) * arguments.for_s)
    settings = {"SIGHTLINE_ENGINE": "bench.uneven:Uneven", "SIGHTLINE_MAX_NUM_SEQS": str(arguments.slots)}
    prompt = f"!slow {arguments.seconds} !pid"
    with Stack(Path(tempfile.mkdtemp(prefix="sightline-bench-")), settings=settings, workers=0) as stack:
        stack.wait_ready()
        fire(stack.port, [post("/v1/jobs", {"prompt": prompt, "images": [tiny(n)]}) for n in range(count)])
        for n, slower in enumerate(arguments.slower):
            stack.environment["BENCH_SLOWER"] = str(slower)
            stack.spawn(f"worker-{n}", "worker.main", "jobs")
        began = time.time()
        wait_for(stack.environment["SIGHTLINE_REDIS_URL"], STEADY[1] * count)
        until = time.time()
        since = began + STEADY[0] * (until - began)
        done = Counter(
            int(output["text"].rpartition(" ")[2])  # the process that did it
            for at, output in outputs(stack.environment["SIGHTLINE_REDIS_URL"])
            if since < at < until
        )
        per_s = [done[stack.processes[f"worker-{n}"].pid] / (until - since) for n in range(len(ideal))]
    report = {
        "per_s": [round(each, 2) for each in per_s],
        "share_of_ideal": [round(each / most, 3) for each, most in zip(per_s, ideal, strict=True)],
        "all": round(sum(per_s) / sum(ideal), 3),
    }
    print(json.dumps({**vars(arguments), "jobs": count, **report, "load_average": round(os.getloadavg()[0], 1)}))


if __name__ == "__main__":
    main()
