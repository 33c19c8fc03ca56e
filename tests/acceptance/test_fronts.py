"""Two processes in front of one vLLM: they share its batch, say what one says, and none of them outlives the engine."""

from __future__ import annotations

import psutil
import pytest

from demo.scenes import scene
from sightline.client import Client
from sightline.stack import Stack
from tests.acceptance.conftest import ask_about, engine_processes, until, worker_of

pytestmark = pytest.mark.timeout(600)
SEED = 990_000
N_JOBS = 12
#: The model says less than a caption of its own accord; a list must have its many numbers.
LIST = {"name": "numbers", "schema": {"type": "array", "items": {"type": "integer"}, "minItems": 200}}
LONG = {"max_tokens": 400, "response_format": {"type": "json_schema", "json_schema": LIST}}


def test_two_fronts_fill_one_batch(client: Client, stack: Stack):
    fronts, cores = engine_processes(stack)
    assert (len(fronts), len(cores)) == (2, 1)
    before_s = [_cpu_s(front) for front in fronts]

    jobs = [client.submit(ask_about(SEED + n, sampling=LONG)) for n in range(N_JOBS)]
    until(lambda: worker_of(client)["engine_running"] > N_JOBS // 2, within_s=60)
    for job in jobs:
        client.request("POST", f"/v1/jobs/{job['id']}/cancel")
    jobs = [client.submit(ask_about(SEED + n)) for n in range(N_JOBS)]

    said = [client.wait(job["id"], timeout_s=120)["output"]["text"] for job in jobs]
    assert said == [scene(SEED + n).caption("en") for n in range(N_JOBS)]
    assert all(_cpu_s(front) > was_s + 0.1 for front, was_s in zip(fronts, before_s, strict=True))  # both rendered


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
