"""How much the shared batch gains: 64 jobs one after another, then 64 at once, on one worker.

``.venv/bin/python -m bench.batch`` starts the whole service with the demo model and prints one JSON line. Every picture is
another one, of three shapes each, so that no cache can answer and the answers are as long as they get.
"""

from __future__ import annotations

import base64
import itertools
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from demo.scenes import scene
from sightline.client import Client
from sightline.stack import Stack

N_JOBS = 64
N_ROUNDS = 3
CLIENTS = 16
MOST_SHAPES = 3
FIRST_SEED = 40_000_000


def pictures(count: int) -> list[str]:
    """Draw that many different pictures of three shapes, as data-URLs."""
    drawn = (scene(FIRST_SEED + n) for n in itertools.count())
    full = itertools.islice((picture for picture in drawn if len(picture.shapes) == MOST_SHAPES), count)
    return ["data:image/png;base64," + base64.b64encode(picture.png()).decode() for picture in full]


def submit(client: Client, picture: str) -> str:
    """Submit one job and give its id."""
    job_id: str = client.submit({"prompt": "Describe this image.", "images": [picture]})["id"]
    return job_id


def one_after_another(client: Client, batch: list[str]) -> float:
    """Give the seconds for all of them, each waited for before the next is sent."""
    began = time.monotonic()
    for picture in batch:
        client.wait(submit(client, picture))
    return time.monotonic() - began


def at_once(client: Client, batch: list[str]) -> float:
    """Give the seconds from the first submit to the last end."""
    began = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        ids = list(pool.map(lambda picture: submit(client, picture), batch))
        jobs = list(pool.map(client.wait, ids))
    assert all(job["status"] == "succeeded" for job in jobs)  # noqa: S101  # a failed job would make it look fast
    return time.monotonic() - began


def main() -> None:
    """Measure a few rounds, each of its own pictures."""
    drawn = pictures((2 * N_ROUNDS + 1) * N_JOBS)
    rounds = [drawn[n : n + N_JOBS] for n in range(0, len(drawn), N_JOBS)]
    ratios, apart_s, together_s = [], [], []
    with Stack(Path(tempfile.mkdtemp(prefix="sightline-bench-"))) as stack, Client(stack.url) as client:
        stack.wait_ready()
        at_once(client, rounds.pop())
        while rounds:
            apart_s.append(one_after_another(client, rounds.pop()))
            together_s.append(at_once(client, rounds.pop()))
            ratios.append(apart_s[-1] / together_s[-1])
            print(f"{apart_s[-1]:.2f} s one after another, {together_s[-1]:.2f} s at once", file=sys.stderr)
        time.sleep(1.5)  # the worker's next notice
        worker = client.request("GET", "/v1/workers")["data"][0]
    result = {
        "jobs": N_JOBS,
        "one_after_another_s": round(sorted(apart_s)[N_ROUNDS // 2], 2),
        "at_once_s": round(sorted(together_s)[N_ROUNDS // 2], 2),
        "ratio": round(sorted(ratios)[N_ROUNDS // 2], 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "engine_running_peak": worker["engine_running_peak"],
        "engine": worker["engine"],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
