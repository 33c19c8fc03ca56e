"""The whole system as processes, once for all acceptance tests: a real Valkey, gateway, webhook sender, worker, vLLM."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from demo.scenes import scene
from sightline.client import Client
from sightline.receiver import Receiver
from sightline.stack import Stack
from tests.ports import block_of_ports


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running service with the demo model on the CPU engine behind two fronts; loopback addresses are allowed."""
    settings = {
        "SIGHTLINE_MODEL": "demo",
        "SIGHTLINE_ENGINE": "vllm",
        "SIGHTLINE_ENGINE_FRONTS": "2",
        "SIGHTLINE_ALLOW_NETWORKS": "127.0.0.0/8",
        "SIGHTLINE_WEBHOOK_SCHEDULE_S": "0.1,60",  # so that a board has a delivery that is tried again, and one that waits
        "SIGHTLINE_METRICS_PORT": str(block_of_ports(4)),
    }
    with Stack(tmp_path_factory.mktemp("stack"), settings=settings) as stack:
        stack.wait_ready()
        yield stack
        fronts, cores = engine_processes(stack)
    assert not any(is_alive(process) for process in (*fronts, *cores))


def engine_processes(stack: Stack) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """The worker's fronts, and vLLM's own processes below them."""
    children = psutil.Process(stack.processes["worker-0"].pid).children(recursive=True)
    named = [(child, " ".join((child.name(), *child.cmdline()))) for child in children]
    return [c for c, name in named if "worker.engines.host" in name], [c for c, name in named if "EngineCore" in name]


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def ask_about(seed: int, **more: Any) -> dict[str, Any]:
    """A job about a drawn scene."""
    picture = f"data:image/png;base64,{base64.b64encode(scene(seed).png()).decode()}"
    return {"prompt": "Describe this image.", "images": [picture], **more}


def worker_of(client: Client) -> dict[str, Any]:
    return client.request("GET", "/v1/workers")["data"][0]


def until(true: Callable[[], bool], *, within_s: float) -> None:
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end, "it did not come to pass in time"
        time.sleep(0.1)


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with Client(stack.url) as client:
        yield client


@pytest.fixture
def receiver(stack: Stack) -> Iterator[Receiver]:
    with Receiver(stack.secret) as receiver:
        yield receiver


class QuietFiles(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web_folder(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address of a web server that serves it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietFiles, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
