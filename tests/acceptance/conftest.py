"""The whole system as processes, once for all acceptance tests: a real Valkey, gateway, webhook sender, worker, vLLM."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sightline.client import Client
from sightline.receiver import Receiver
from sightline.stack import Stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running service with the demo model on the CPU engine; loopback addresses are allowed."""
    settings = {"SIGHTLINE_MODEL": "demo", "SIGHTLINE_ENGINE": "vllm", "SIGHTLINE_ALLOW_NETWORKS": "127.0.0.0/8"}
    with Stack(tmp_path_factory.mktemp("stack"), settings=settings) as stack:
        stack.wait_ready()
        yield stack


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
