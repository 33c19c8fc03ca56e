"""Two processes in front of one vLLM: they share its batch, say what one says, and none of them outlives the engine."""

from __future__ import annotations

import re

import psutil
import pytest

from demo.scenes import scene
from shared.settings import ROOT
from sightline.client import Client
from sightline.stack import Stack
from tests.acceptance.conftest import ask_about, engine_processes, until, worker_of
from tests.integration.test_process_metrics import WORKER, figures

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


def test_vllms_own_figures_stand_beside_the_workers(client: Client, stack: Stack) -> None:
    job = client.wait(client.submit(ask_about(SEED + 100))["id"], timeout_s=120)
    seen = {
        (key[0], *key[2:]): n for key, n in figures(stack.effective.metrics_port + WORKER).items()
    }  # but for the engine's number

    assert seen["vllm:generation_tokens_total", "qwen-vl"] >= job["output"]["usage"]["output_tokens"]
    assert seen["vllm:prompt_tokens_total", "qwen-vl"] >= job["output"]["usage"]["prompt_tokens"]
    assert seen["vllm:num_requests_running", "qwen-vl"] == seen["vllm:num_requests_waiting", "qwen-vl"] == 0
    assert 0 <= seen["vllm:kv_cache_usage_perc", "qwen-vl"] <= 1
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds"):
        assert seen[f"vllm:{name}_count", "qwen-vl"] >= N_JOBS, "of both fronts together"
    boards = "".join(board.read_text() for board in (ROOT / "ops/grafana/dashboards").glob("*.json"))
    named = set(re.findall(r"vllm:\w+", boards))
    assert named
    assert named <= {key[0] for key in seen}
    assert any(key[0] == "sightline_worker_phase" for key in seen)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
