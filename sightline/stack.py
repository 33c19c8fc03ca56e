"""All parts on this machine: an embedded Valkey, the gateway, a worker, a webhook sender, as processes that end together."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from shared.settings import DEMO_MODEL, ROOT
from shared.signing import make_secret
from sightline.client import Client, ServiceError

#: What the demo model needs: it is small, its context is short, and float32 makes all engines agree to the token.
DEMO_ENGINE = {
    "SIGHTLINE_DTYPE": "float32",
    "SIGHTLINE_MAX_MODEL_LEN": "1024",
    "SIGHTLINE_MAX_NUM_SEQS": "32",
    "SIGHTLINE_MAX_NUM_BATCHED_TOKENS": "2048",
}
READY_TIMEOUT_S = 900.0  #: a large model on a slow disk
STOP_TIMEOUT_S = 40.0
#: Linux takes the ports of connections from 32,768 upwards.
PORTS = (20_000, 32_000)
_PR_SET_PDEATHSIG = 1


class StackFailed(Exception):
    """A part ended before it should; the message holds the end of its log."""


def free_port() -> int:
    """Find a port that nobody listens on now, below those that the kernel gives to connections before it is used."""
    while True:
        port = random.SystemRandom().randrange(*PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


def die_with_parent() -> None:
    """In a child: ask Linux for SIGTERM when the parent goes, so that even kill -9 leaves no process behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class Stack:
    """Starts the parts and stops them again, in order.

    Args:
        folder: data, blobs and logs go here.
        port: of the gateway; 0 takes a free one.
        settings: ``SIGHTLINE_*`` variables for the parts, over those of this process.
        workers: engine workers.
    """

    folder: Path
    port: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)
    workers: int = 1
    secret: str = field(default_factory=make_secret)

    def __post_init__(self) -> None:
        """Decide on ports and settings; nothing is started yet."""
        self.port = self.port or free_port()
        self.redis_port = free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, list[str]] = {}
        own = {
            "SIGHTLINE_REDIS_URL": f"redis://127.0.0.1:{self.redis_port}/0",
            "SIGHTLINE_BLOBS_URL": str(self.folder / "blobs"),
            "SIGHTLINE_PORT": str(self.port),
            "SIGHTLINE_WEBHOOK_SECRET": self.secret,
            "SIGHTLINE_LOG_JSON": "true",
            "PYTHONUNBUFFERED": "1",
        }
        given = {**os.environ, **self.settings}
        demo = DEMO_ENGINE if given.get("SIGHTLINE_MODEL", DEMO_MODEL) == DEMO_MODEL else {}
        self.environment = {**demo, **own, **given, "SIGHTLINE_PORT": str(self.port)}

    @property
    def url(self) -> str:
        """The gateway's address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start every part; returns before they are ready."""
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        self.spawn("redis", "sightline.embedded", str(self.redis_port), str(self.folder / "redis"))
        self.spawn("gateway", "api.main")
        self.spawn("webhooks", "worker.main", "webhooks")
        for n in range(self.workers):
            self.spawn(f"worker-{n}", "worker.main", "jobs")

    def spawn(self, name: str, module: str, *args: str) -> subprocess.Popen[bytes]:
        """Start one part, in a session of its own: Ctrl-C must reach only the parent, which stops the parts in order."""
        self._commands[name] = [sys.executable, "-m", module, *args]
        return self.respawn(name)

    def respawn(self, name: str) -> subprocess.Popen[bytes]:
        """Start a part again that has ended."""
        with self.log_path(name).open("ab") as log:
            process = subprocess.Popen(  # noqa: S603  # our own modules
                self._commands[name],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509  # runs before any thread of ours exists in the child
            )
        self.processes[name] = process
        return process

    def log_path(self, name: str) -> Path:
        """Say where a part's log is."""
        return self.folder / "logs" / f"{name}.log"

    def wait_ready(self, on_news: Callable[[str], None] = lambda _: None) -> None:
        """Wait until a job can be served.

        Args:
            on_news: is told what is being waited for, each time that changes.

        Raises:
            StackFailed: a part ended, or it takes too long.
        """
        until, last = time.monotonic() + READY_TIMEOUT_S, ""
        with Client(self.url, timeout_s=5) as client:
            while time.monotonic() < until:
                self.check()
                try:
                    client.request("GET", "/readyz")
                except ServiceError as error:
                    news = _news(client) if error.code == "not_ready" else "starting the gateway"
                else:
                    return
                if news != last:
                    on_news(news)
                    last = news
                time.sleep(0.2)
        msg = f"not ready after {READY_TIMEOUT_S:.0f} s; see the logs in {self.folder / 'logs'}"
        raise StackFailed(msg)

    def check(self) -> None:
        """Raise if a part has ended.

        Raises:
            StackFailed: with the end of its log.
        """
        for name, process in self.processes.items():
            if process.poll() is not None:
                tail = "\n".join(self.log_path(name).read_text(errors="replace").splitlines()[-8:])
                msg = f"{name} ended with exit code {process.returncode}:\n{tail}"
                raise StackFailed(msg)

    def stop(self) -> None:
        """Stop the parts: workers first, so that they can hand back what they hold; Redis last."""
        last = [name for name in ("gateway", "redis") if name in self.processes]
        first = [name for name in self.processes if name not in last]
        for names in (first, last[:1], last[1:]):
            for name in names:
                self.processes[name].terminate()
            for name in names:
                _reap(self.processes[name])
        self.processes.clear()

    def __enter__(self) -> Self:
        """Start the parts."""
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop the parts, whatever happened."""
        self.stop()


def _reap(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _news(client: Client) -> str:
    try:
        workers = client.request("GET", "/v1/workers")["data"]
    except ServiceError:
        return "starting the gateway"
    if not workers:
        return "starting the worker"
    worker = workers[0]
    return f"worker {worker['phase']}: {worker['engine']['name']} {worker['engine']['version']}"
