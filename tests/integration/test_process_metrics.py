"""Each process shows Prometheus what it did at a port of its own, and takes its figures along when it goes."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sightline.client import Client
from sightline.receiver import Receiver
from sightline.stack import Stack
from tests.media import data_url, picture
from tests.ports import block_of_ports

DOUBLE = {
    "SIGHTLINE_ENGINE": "tests.double:DoubleEngine",
    "SIGHTLINE_DECODE_PROCESSES": "1",
    "SIGHTLINE_MIN_FREE_BYTES": "0",
    "SIGHTLINE_ALLOW_NETWORKS": "127.0.0.0/8",
}
GATEWAY, BATCHES, SENDER, WORKER = range(4)


def figures(port: int) -> dict[tuple[str, ...], float]:
    """What a process shows, by name and the values of its labels in the order of their names."""
    families = text_string_to_metric_families(httpx.get(f"http://127.0.0.1:{port}/metrics").text)
    samples = [sample for family in families for sample in family.samples]
    return {(sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value for sample in samples}


def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        time.sleep(0.05)


def run_a_batch(client: Client) -> None:
    body = {"model": "qwen-vl", "messages": [{"role": "user", "content": "hello"}]}
    lines = [{"custom_id": str(n), "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(3)]
    lines.append({**lines[0], "custom_id": "bad", "body": {**body, "messages": []}})
    text = "\n".join(map(json.dumps, lines)).encode()
    with httpx.Client(base_url=client.url, timeout=60) as http:
        sent = {"file": ("b.jsonl", io.BytesIO(text))}
        file = http.post("/v1/files", files=sent, data={"purpose": "batch"}).json()["id"]
        asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = http.post("/v1/batches", json=asked).json()["id"]
        until(lambda: http.get(f"/v1/batches/{batch}").json()["status"] in {"completed", "failed"})


def test_each_process_shows_what_it_did(tmp_path: Path) -> None:
    base = block_of_ports(4)
    settings = {**DOUBLE, "SIGHTLINE_METRICS_PORT": str(base)}
    with Stack(tmp_path, settings=settings) as stack, Client(stack.url) as client, Receiver(stack.secret) as receiver:
        stack.wait_ready()
        hook = {"webhook": {"url": receiver.url}}
        jobs = [client.submit({"prompt": f"? {n}", "images": [data_url(picture())], **hook}) for n in range(3)]
        jobs.append(client.submit({"prompt": "!long", "images": [data_url(picture())]}))
        assert [client.wait(job["id"], timeout_s=60)["status"] for job in jobs] == [*["succeeded"] * 3, "failed"]
        until(lambda: len(receiver.received) == 3)
        run_a_batch(client)
        with httpx.Client(base_url=stack.url) as http:
            assert http.get("/v1/jobs/job_nobody").status_code == httpx.codes.NOT_FOUND
            assert http.request("PROPFIND", "/v1/pots/7").status_code == httpx.codes.NOT_FOUND

        worker = figures(base + WORKER)
        assert worker["sightline_attempts_total", "succeeded"] == 3 + 3
        assert worker["sightline_attempts_total", "failed"] == 1
        stages = {key[1] for key in worker if key[0] == "sightline_job_stage_seconds_count"}
        assert {"queue", "fetch", "decode", "total"} <= stages
        assert worker["sightline_job_stage_seconds_count", "total"] == 3 + 3
        assert worker["sightline_worker_phase", "ready"] == 1
        assert worker["sightline_worker_phase", "loading"] == worker["sightline_worker_jobs", "generating"] == 0
        assert worker["process_resident_memory_bytes",] > 10 * 2**20

        gateway = figures(base + GATEWAY)
        assert gateway["sightline_http_requests_total", "POST", "/v1/jobs", "202"] == 4
        assert gateway["sightline_http_requests_total", "GET", "/v1/jobs/{job_id}", "404"] == 1
        assert gateway["sightline_http_requests_total", "other", "none", "404"] == 1
        assert gateway["sightline_http_head_seconds_count", "/v1/jobs"] == 4

        sender = figures(base + SENDER)
        assert (
            sender["sightline_webhook_attempt_seconds_count", "delivered"]
            == sender["sightline_webhook_delay_seconds_count",]
            == 3
        )
        assert sender["sightline_webhooks_under_way",] == 0

        runner = figures(base + BATCHES)
        assert [runner["sightline_batch_lines_total", result] for result in ("output", "error")] == [3, 1]

        stack.processes["worker-0"].kill()
        stack.processes["worker-0"].wait()
        with pytest.raises(httpx.ConnectError):
            figures(base + WORKER)


SHOWS_ONE = """
import time
from prometheus_client import Gauge
from shared.process_metrics import open_metrics
from shared.settings import Settings
Gauge("vllm:requests", "As an engine's library names it.").set(7)
open_metrics(Settings())
print("open", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5",
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4",
        "*/*",
    ],
    ids=["Prometheus 2", "Prometheus 3", "curl"],
)
def test_names_are_the_same_for_every_prometheus(accept: str) -> None:
    port = block_of_ports(1)
    own = os.environ | {"SIGHTLINE_METRICS_PORT": str(port)}
    shows = subprocess.Popen([sys.executable, "-c", SHOWS_ONE], env=own, stdout=subprocess.PIPE, text=True)
    try:
        assert shows.stdout
        assert shows.stdout.readline() == "open\n"  # it answers a moment before, as the library would by itself
        shown = httpx.get(f"http://127.0.0.1:{port}/metrics", headers={"accept": accept})
        head = httpx.head(f"http://127.0.0.1:{port}/metrics", headers={"accept": accept})
    finally:
        shows.kill()
        shows.communicate()
    assert "vllm:requests 7.0" in shown.text.splitlines()
    assert shown.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert (head.status_code, head.text, head.headers["content-type"]) == (200, "", shown.headers["content-type"])


def test_a_port_that_is_taken_is_told_at_the_start() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused("127.0.0.1", port)
    assert f"127.0.0.1:{port}" in said
    assert "give each process its own SIGHTLINE_METRICS_PORT" in said


@pytest.mark.parametrize("host", ["192.0.2.1", "nobody.invalid", "a..b"], ids=["another's", "unknown", "no name"])
def test_a_host_that_is_none_of_this_machines_is_told_at_the_start(host: str) -> None:
    said = refused(host, block_of_ports(1))
    assert host in said
    assert "let SIGHTLINE_METRICS_HOST be" in said


def refused(host: str, port: int) -> str:
    """What a part says that cannot show its figures there, and ends."""
    environment = {**os.environ, "SIGHTLINE_METRICS_HOST": host, "SIGHTLINE_METRICS_PORT": str(port)}
    command = [sys.executable, "-m", "worker.main", "webhooks"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "metrics.no_port" in ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr
