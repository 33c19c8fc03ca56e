"""The page in a real Chromium, in front of all parts, with an engine that says what it is told to, as slowly as it is told.

One service and one Chromium for all of these tests: they stay in one process, see ``tests/conftest.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from playwright.sync_api import Browser, Page

from sightline.client import Client
from sightline.stack import Stack, free_port
from tests.browser import chromium, drop, visit
from tests.forked import ForkServer, forking
from tests.media import data_url, picture

PNG = "image/png"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "page":
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="package", autouse=True)
def forked(fork_server: ForkServer) -> Iterator[None]:
    """Fork the parts and commands: what is tested is the page in front of them."""
    with forking(fork_server):
        yield


@pytest.fixture(scope="package")
def stack(forked: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = {
        "SIGHTLINE_ENGINE": "tests.double:DoubleEngine",
        "SIGHTLINE_MAX_UPLOAD_BYTES": "100000",
        "SIGHTLINE_ALLOW_NETWORKS": "127.0.0.0/8",
        "SIGHTLINE_DRAIN_S": "1",
    }
    with Stack(tmp_path_factory.mktemp("page"), settings=settings) as stack:
        stack.wait_ready()
        yield stack


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with Client(stack.url) as client:
        yield client


@pytest.fixture
def page(stack: Stack, browser: Browser) -> Iterator[Page]:
    with visit(browser, stack.url) as page:
        yield page


def ask(page: Page, prompt: str, *names: str) -> None:
    drop(page, *((name, picture(), PNG) for name in names or ("a.png",)))
    page.locator("#prompt").fill(prompt)
    page.keyboard.press("Control+Enter")


def submit(client: Client, prompt: str, **more: object) -> str:
    return client.submit({"prompt": prompt, "images": [data_url(picture())], **more}).id


@contextmanager
def gateway_beside(stack: Stack, **settings: str) -> Iterator[str]:
    """Run a second gateway on the same Redis, with settings of its own."""
    port = free_port()
    own = {f"SIGHTLINE_{name.upper()}": value for name, value in settings.items()}
    environment = stack.environment | own | {"SIGHTLINE_PORT": str(port)}
    process = subprocess.Popen([sys.executable, "-m", "api.main"], env=environment, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=url, trust_env=False, transport=httpx.HTTPTransport(retries=8)) as http:
            http.get("/livez", timeout=30)
        yield url
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="package")
def keyed(stack: Stack) -> Iterator[str]:
    with gateway_beside(stack, require_keys="true") as url:
        yield url


def make_key(stack: Stack, name: str, *options: str) -> str:
    """Make a key where the service runs; gives its secret."""
    return run_keys(stack, "create", name, *options)


def run_keys(stack: Stack, *words: str) -> str:
    """Run a command about keys where the service runs; gives what it prints."""
    command = [sys.executable, "-m", "sightline.cli", "keys", *words]
    return subprocess.run(
        command, env=os.environ | stack.environment, capture_output=True, text=True, check=True
    ).stdout.strip()
