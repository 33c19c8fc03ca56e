"""Whether memory stays flat: 2,000 different short clips through gateway, worker and the real engine, on the CPU.

``.venv/bin/python -m bench.memory`` draws the clips, sends them as a client does, some at a time, and writes down the memory
of every part twice a second. What counts is the median of the resident memory right after the warm-up beside that at the
end. One JSON line comes last; the exit code is 1 where the worker with all its processes, or the gateway, changed by more
than 5 %.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.gpu.meter import kind_of
from demo.scenes import clip
from sightline.client import Client
from sightline.stack import Stack

CLIENTS = 6  #: clips in flight
SAMPLE_S = 0.5
FIRST_SEED = 60_000_000
#: The worker's own process, vLLM's beside it, the children that decode with what serves them, and the gateway.
PARTS = ("worker", "engine", "decoders", "gateway")
#: What has to stay flat. Decoding children grow until they are renewed, each after a thousand files.
WHOLES = {"worker in all": PARTS[:3], "gateway": PARTS[3:]}
MOST_CHANGE_PERCENT = 5
MB = 2**20


@dataclass(frozen=True)
class Sample:
    """The resident memory of the parts when so many clips were done, bytes."""

    done: int
    rss: dict[str, int]


@dataclass
class Watch:
    """Looks at the parts until it is stopped."""

    stack: Stack
    done: int = 0
    samples: list[Sample] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        """Take samples."""
        worker, gateway = (psutil.Process(self.stack.processes[name].pid) for name in ("worker-0", "gateway"))
        while not self.over.wait(SAMPLE_S):
            rss = {"worker": _rss(worker), "engine": 0, "decoders": 0, "gateway": _rss(gateway)}
            for child in worker.children(recursive=True):
                with suppress(psutil.NoSuchProcess):  # a decoding child that was renewed
                    rss["decoders" if kind_of(child) == "others" else "engine"] += _rss(child)
            self.samples.append(Sample(self.done, rss))


def _rss(process: psutil.Process) -> int:
    return int(process.memory_info().rss)


def describe(client: Client, seed: int) -> None:
    """Draw a clip, have it described, and see that it was."""
    video = "data:video/mp4;base64," + base64.b64encode(clip(seed).mp4()).decode()
    job = client.wait(client.submit({"prompt": "Describe this video.", "video": video})["id"])
    assert job["status"] == "succeeded", job["error"]  # noqa: S101  # a failed job would not use the memory


def flatness(samples: list[Sample], *, warm_up: int, total: int) -> dict[str, dict[str, float]]:
    """Compare, for each part and whole, the medians of two windows of samples.

    Args:
        samples: in order.
        warm_up: clips before the first window; it is a tenth of ``total`` long, as the last one is.
        total: clips in all.
    """
    window = total // 10
    figures = {}
    for name, parts in {**{part: (part,) for part in PARTS}, **WHOLES}.items():
        rss = [(sample.done, sum(sample.rss[part] for part in parts)) for sample in samples]
        first = statistics.median(n for done, n in rss if warm_up <= done < warm_up + window)
        last = statistics.median(n for done, n in rss if done >= total - window)
        peak = max(n for _, n in rss)
        figures[name] = {
            "after_warm_up_mb": round(first / MB, 1),
            "end_mb": round(last / MB, 1),
            "peak_mb": round(peak / MB, 1),
            "change_percent": round(100 * (last - first) / max(first, 1), 2),  # an engine may live in the worker
        }
    return figures


def main() -> None:
    """Measure one worker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--warm-up", type=int, default=300)
    parser.add_argument("--engine", default="vllm")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sightline-memory-"))
    settings = {"SIGHTLINE_MODEL": "demo", "SIGHTLINE_ENGINE": arguments.engine}
    began = time.monotonic()
    with Stack(folder, settings=settings) as stack, Client(stack.url) as client, ThreadPoolExecutor(CLIENTS) as pool:
        stack.wait_ready()
        watch, count = Watch(stack), itertools.count(1)
        watcher = threading.Thread(target=watch.look)
        watcher.start()
        seeds = range(FIRST_SEED, FIRST_SEED + arguments.clips)
        try:
            for _ in pool.map(lambda seed: describe(client, seed), seeds):
                watch.done = next(count)
                if watch.done % 100 == 0 and watch.samples:
                    sizes = ", ".join(f"{part} {n / MB:.0f} MB" for part, n in watch.samples[-1].rss.items())
                    print(f"{watch.done} clips, {time.monotonic() - began:.0f} s: {sizes}", file=sys.stderr)
            time.sleep(2 * SAMPLE_S)
        finally:
            watch.over.set()
            watcher.join()
    figures = flatness(watch.samples, warm_up=arguments.warm_up, total=arguments.clips)
    result = {
        **vars(arguments),
        "seconds": round(time.monotonic() - began),
        "parts": figures,
        "load_average": round(os.getloadavg()[0], 1),
    }
    (folder / "samples.json").write_text(json.dumps([[sample.done, sample.rss] for sample in watch.samples]))
    print(json.dumps(result))
    sys.exit(any(abs(figures[name]["change_percent"]) > MOST_CHANGE_PERCENT for name in WHOLES))


if __name__ == "__main__":
    main()
