"""Each query of each board, asked of a real Prometheus that scrapes the whole service with the real engine."""

from __future__ import annotations

import asyncio
import io
import json
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo.scenes import scene
from shared.settings import ROOT
from shared.store.api_keys import ApiKeys, Limits
from shared.store.connection import connect
from sightline.client import Client
from sightline.receiver import Receiver
from sightline.stack import Stack, free_port
from tests.acceptance.conftest import ask_about
from tests.chaos.prometheus import Prometheus
from tests.page.conftest import gateway_beside
from tests.ports import block_of_ports

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not shutil.which("prometheus"), reason="Debian's prometheus is not installed"),
]
SEED = 995_000
PARTS = 4
WITHIN_S = 90.0


@pytest.fixture
def keyed(stack: Stack) -> Iterator[tuple[str, list[int]]]:
    """A second gateway, which asks for keys: its address, and the ports where it and the other parts show what they did."""
    own = block_of_ports(1)
    with gateway_beside(stack, require_keys="true", metrics_port=str(own)) as url:
        yield url, [own, *(stack.effective.metrics_port + n for n in range(1, PARTS))]


def key_of(stack: Stack, name: str, **limits: Any) -> str:
    async def make() -> str:
        async with connect(stack.effective) as redis:
            return (await ApiKeys(redis).create(name, **Limits(**limits)))[1]

    return asyncio.run(make())


def run_a_batch(http: httpx.Client) -> None:
    body = {"model": "qwen-vl", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
    lines = [{"custom_id": str(n), "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(3)]
    file = http.post(
        "/v1/files",
        files={"file": ("b.jsonl", io.BytesIO("\n".join(map(json.dumps, lines)).encode()))},
        data={"purpose": "batch"},
    ).json()["id"]
    asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    assert http.post("/v1/batches", json=asked).is_success


def load(url: str, key: str, seeds: range, receiver: Receiver, site: str) -> None:
    """Have jobs succeed, fail, and be tried again; have webhooks taken and refused."""
    with Client(url, api_key=key) as client:
        jobs = [client.submit(ask_about(seed, webhook={"url": receiver.url})) for seed in seeds]
        jobs.append(client.submit({"prompt": "?", "images": [f"{site}/nothing.png"]}))
        jobs.append(client.submit({"prompt": "?", "images": [f"{site}/shape.png"]}))
        jobs.append(client.submit(ask_about(seeds.stop + 1000, webhook={"url": f"http://127.0.0.1:{free_port()}/"})))
        for job in jobs:
            client.wait(job["id"], timeout_s=120)


def test_every_query_of_every_board_gives_data(
    stack: Stack, keyed: tuple[str, list[int]], web_folder: tuple[Path, str], tmp_path: Path
) -> None:
    folder, site = web_folder
    (folder / "shape.png").write_bytes(scene(SEED).png())
    keys = key_of(stack, "first", max_jobs_day=1000), key_of(stack, "second", max_vision_tokens_day=10**7)
    url, ports = keyed
    gateway = int(url.rpartition(":")[2])
    with Receiver(stack.secret) as receiver, Prometheus(tmp_path, gateway, ports, key=keys[0]) as prometheus:
        began = time.monotonic()
        rounds, without = 0, dict[str, str]()
        while (rounds < 2 or without) and time.monotonic() - began < WITHIN_S:
            for n, key in enumerate(keys):
                load(url, key, range(SEED + 100 * rounds + 10 * n, SEED + 100 * rounds + 10 * n + 4), receiver, site)
            with httpx.Client(base_url=url, headers={"authorization": f"Bearer {keys[0]}"}, timeout=60) as http:
                run_a_batch(http)
            rounds += 1
            time.sleep(3)
            without = {expression: panel for panel, expression in queries() if not has_data(prometheus, expression)}
        asked = list(queries())

    assert len(asked) > 30
    assert without == {}


def queries() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "ops/grafana/dashboards").glob("*.json")):
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            for target in panel["targets"]:
                yield f"{board['title']}: {panel['title']}", target["expr"]


def has_data(prometheus: Prometheus, expression: str) -> bool:
    return any(not math.isnan(value) for value in prometheus.ask(expression).values())
