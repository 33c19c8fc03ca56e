"""What 10-minute videos in flight do to pictures: their latency at a steady rate, without and with videos.

``.venv/bin/python -m bench.mixed`` starts the whole service with the demo model on the CPU, makes a film of ten minutes
(H.264, 854 x 480, 25 frames a second), and plays rounds in turn: pictures alone, then pictures beside videos, of which so
many are always in flight. Every picture is another one. A job's latency is that of its record, from submit to end. One JSON
line comes last; the exit code is 1 where the p95 beside videos is twice that without, or more.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import av
import numpy as np

from demo.scenes import scene
from sightline.client import Client
from sightline.stack import Stack

FILM_S, RATE, SIZE = 600, 25, (854, 480)
FIRST_SEED = 80_000_000
MOST_RATIO = 2.0
STAGES = ("queue", "fetch", "decode", "render", "generate")
#: A 10-minute film is for the demo model what it is for a large one: more than half of a step.
ENGINE = {"SIGHTLINE_MODEL": "demo", "SIGHTLINE_MAX_NUM_BATCHED_TOKENS": "1024"}


def make_film(path: Path, seconds: int) -> None:
    """Write a film whose picture drifts over coarse noise, with a keyframe every 10 s, as x264 sets them."""
    chance, (width, height) = np.random.default_rng(7), SIZE
    coarse = chance.integers(0, 256, (height // 8 + 1, width // 8 + 64, 3), dtype=np.uint8)
    wide = coarse.repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "crf": "28"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for n in range(seconds * RATE):
            drift = n * 2 % 500
            frame = np.ascontiguousarray(wide[:height, drift : drift + width])
            target.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        target.mux(stream.encode())


Timings = dict[str, float]


@dataclass
class Films:
    """Keeps so many videos in flight until stopped."""

    url: str
    file_id: str
    in_flight: int
    ended_s: list[float] = field(default_factory=list)  #: how long each took
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> None:
        self._threads = [threading.Thread(target=self._play) for _ in range(self.in_flight)]
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _play(self) -> None:
        with Client(self.url) as client:
            while not self._over.is_set():
                job = client.submit({"prompt": "Describe this video.", "video": self.file_id})
                self.ended_s.append(_timings(client.wait(job["id"], timeout_s=600))["latency"] / 1000)


def play_pictures(url: str, seeds: Iterator[int], *, per_s: float, seconds: float) -> list[Timings]:
    """Submit pictures at a steady rate, whatever becomes of them; gives each one's milliseconds, by stage and in all."""
    drawn = [scene(next(seeds)).png() for _ in range(int(per_s * seconds))]
    bodies = [{"prompt": "Describe this image.", "images": [_data_url(png)]} for png in drawn]
    with Client(url) as client, ThreadPoolExecutor(64) as waiters:
        began, waits = time.monotonic(), []
        for n, body in enumerate(bodies):
            time.sleep(max(0.0, began + n / per_s - time.monotonic()))
            waits.append(waiters.submit(client.wait, client.submit(body)["id"]))
        return [_timings(wait.result()) for wait in waits]


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _timings(job: dict[str, Any]) -> Timings:
    assert job["status"] == "succeeded", job["error"]  # noqa: S101  # a failed job would be a fast one
    return {**job["output"]["timings_ms"], "latency": 1000 * (job["finished_at"] - job["created_at"])}


def _ms(jobs: list[Timings]) -> dict[str, int]:
    cuts = statistics.quantiles((job["latency"] for job in jobs), n=100)
    return {"n": len(jobs)} | {name: round(cuts[at - 1]) for name, at in (("p50", 50), ("p95", 95), ("p99", 99))}


def _stages(jobs: list[Timings]) -> dict[str, int]:
    """Say where the time went: the mean of each stage."""
    return {stage: round(statistics.mean(job[stage] for job in jobs)) for stage in STAGES}


def main() -> None:
    """Measure one worker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=1, help="in flight")
    parser.add_argument("--rate", type=float, default=2.0, help="pictures a second")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine", default="vllm")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sightline-mixed-"))
    film, seeds = folder / "film.mp4", count(FIRST_SEED)
    make_film(film, FILM_S)
    print(f"a film of {film.stat().st_size / 2**20:.0f} MiB", file=sys.stderr)
    alone, beside, films_s = list[Timings](), list[Timings](), list[float]()
    settings = {**ENGINE, "SIGHTLINE_ENGINE": arguments.engine}
    with Stack(folder, settings=settings) as stack, Client(stack.url) as client:
        stack.wait_ready()
        file_id = client.upload(film)["id"]
        play = {"per_s": arguments.rate, "seconds": arguments.seconds}
        play_pictures(stack.url, seeds, per_s=arguments.rate, seconds=5)
        for _ in range(arguments.rounds):
            alone += play_pictures(stack.url, seeds, **play)
            films = Films(stack.url, file_id, arguments.videos)
            with films:
                time.sleep(1)
                beside += play_pictures(stack.url, seeds, **play)
            films_s += films.ended_s
            print(f"alone {_ms(alone)}, beside videos {_ms(beside)}, {len(films_s)} videos", file=sys.stderr)
    ratio = _ms(beside)["p95"] / _ms(alone)["p95"]
    result = {
        **vars(arguments),
        "film_mib": round(film.stat().st_size / 2**20),
        "alone_ms": _ms(alone),
        "beside_ms": _ms(beside),
        "stages_alone_ms": _stages(alone),
        "stages_beside_ms": _stages(beside),
        "p95_ratio": round(ratio, 2),
        "videos": len(films_s),
        "video_s": round(statistics.median(films_s), 1),
        "load_average": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(result))
    sys.exit(ratio >= MOST_RATIO)


if __name__ == "__main__":
    main()
