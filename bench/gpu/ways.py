"""The ways that are compared, each behind the same three calls: start, ready, run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from multiprocessing.connection import Client as Connect
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import httpx

from bench.gpu.cases import CLIP_FRAMES, Case
from bench.gpu.clients import Answered, ChatClient, JobsClient, ask_all, server_clients, service_clients
from shared.settings import ROOT
from sightline.client import Client, ServiceError
from sightline.stack import Stack, die_with_parent, free_port

API_SERVERS = 8  #: the best of 1 to 8 on an H200
READY_TIMEOUT_S = 420
Done = tuple[float, float, int]


@dataclass
class Ran:
    """What a way did with one case."""

    done: list[Done]
    running: list[float] = field(default_factory=list)  #: requests in the engine's batch, twice a second
    stages_ms: dict[str, float] = field(default_factory=dict)  #: means, where the way tells


def _ran(answered: list[Answered], running: list[float] | None = None) -> Ran:
    done = [(answer.began_s, answer.ended_s, answer.tokens) for answer in answered]
    stages = answered[0].timings_ms if answered else {}
    means = {name: round(sum(answer.timings_ms[name] for answer in answered) / len(answered), 1) for name in stages}
    return Ran(done, running or [], means)


def spawn(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process of its own session, which ends when this one does, however that ends."""
    with log.open("wb") as output:
        return subprocess.Popen(  # noqa: S603  # our own commands
            command,
            env=environment,
            cwd=ROOT,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509  # it sets one flag
        )


def kill(process: subprocess.Popen[bytes] | None) -> None:
    """Kill a process that may not have been started, or has ended, and all that it started: engines outlive a killed parent."""
    if process is None:
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Way(Protocol):
    """Something with an engine that can be started and measured."""

    @property
    def parts(self) -> dict[str, int]:
        """Its processes by name."""

    @property
    def log(self) -> Path:
        """What its engine says."""

    def start(self) -> None:
        """Start to load."""

    def ready(self) -> None:
        """Wait until it is loaded."""

    def stop(self) -> None:
        """End it."""


class Child:
    """A process with an engine, see :mod:`bench.gpu.engines`."""

    def __init__(self, name: str, kind: str, folder: Path, environment: dict[str, str]) -> None:
        """Remember what to start."""
        self.name = name
        self._address = str(folder / f"{name}.sock")
        self._command = [sys.executable, "-m", "bench.gpu.engines", self._address, kind]
        self.log, self._environment = folder / f"{name}.log", environment
        self._connection: Connection | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start to load."""
        Path(self._address).unlink(missing_ok=True)
        self.process = spawn(self._command, self._environment, self.log)

    def ready(self) -> None:
        """Wait until it is loaded."""
        until = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < until and self._runs:
            try:
                self._connection = self._connection or Connect(self._address, "AF_UNIX")
            except OSError:
                time.sleep(0.2)
                continue
            with suppress(EOFError):  # it ended meanwhile
                if self._connection.poll(1.0):
                    self._connection.recv()
                    return
        msg = f"{self.name} did not start: {self.log.read_text()[-2000:]}"
        raise RuntimeError(msg)

    @property
    def parts(self) -> dict[str, int]:
        """Its processes."""
        return {self.name: self.process.pid} if self.process else {}

    @property
    def _runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def way(self, method: str) -> Callable[[Case, list[Path]], Ran]:
        """Give what lets it do something with a case's files."""

        def run(case: Case, files: list[Path]) -> Ran:
            assert self._connection is not None  # noqa: S101  # ready() came first
            self._connection.send((method, [str(file) for file in files], case.tokens))
            done: list[Done] = self._connection.recv()
            return Ran(done)

        return run

    def stop(self) -> None:
        """End it."""
        kill(self.process)


def _is_cpu_build() -> bool:
    try:
        metadata.version("vllm")
    except metadata.PackageNotFoundError:
        return True  # whose command line asks for the other package's name
    return False


class Server:
    """(e): ``vllm serve`` with several API servers, asked by asynchronous clients."""

    def __init__(self, folder: Path, environment: dict[str, str], arguments: dict[str, Any], pixels: dict[str, int]) -> None:
        """Remember what to start."""
        self.port = free_port()
        flags: list[str] = []
        own = {"port": self.port, "mm_processor_kwargs": pixels}
        for name, value in (arguments | own).items():
            flag = "--" + name.replace("_", "-")
            if name in {"model", "scheduler_cls"}:  # ours is no part of its own
                continue
            if isinstance(value, bool):
                flags += [flag if value else "--no-" + flag[2:]]
            elif isinstance(value, int | float | str | dict):
                flags += [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
        flags += ["--media-io-kwargs", json.dumps({"video": {"num_frames": CLIP_FRAMES}})]
        self._model, self._engines = str(arguments["model"]), int(arguments.get("data_parallel_size", 1))
        if _is_cpu_build():
            entry = ["vllm.entrypoints.openai.api_server", "--model", self._model]  # one API server
        else:
            entry = ["vllm.entrypoints.cli.main", "serve", self._model, "--api-server-count", str(API_SERVERS)]
        self._command = [sys.executable, "-m", *entry, *flags]
        folder.mkdir(parents=True, exist_ok=True)
        self.log, self._environment = folder / "serve.log", environment
        self._name = arguments["served_model_name"]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start to load."""
        self.process = spawn(self._command, self._environment, self.log)

    def ready(self) -> None:
        """Wait until it answers."""
        until = time.monotonic() + READY_TIMEOUT_S
        with httpx.Client(trust_env=False) as client:
            while time.monotonic() < until and self._runs:
                try:
                    if client.get(f"http://127.0.0.1:{self.port}/health").status_code == httpx.codes.OK:
                        return
                except httpx.HTTPError:
                    pass
                time.sleep(0.3)
        msg = f"vllm serve did not start: {self.log.read_text()[-2000:]}"
        raise RuntimeError(msg)

    @property
    def parts(self) -> dict[str, int]:
        """Its processes."""
        return {"serve": self.process.pid} if self.process else {}

    @property
    def _runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def run(self, case: Case, files: list[Path], *, clients: int | None = None, may_fail: bool = False) -> Ran:
        """Ask for each file, so many at a time."""
        at_a_time = clients or self._engines * server_clients()
        return _ran(ask_all(ChatClient(self.port, self._name), case, files, at_a_time, may_fail=may_fail))

    def stop(self) -> None:
        """End it."""
        kill(self.process)


class Service:
    """(f): Sightline as a user runs it, polled or by webhooks."""

    def __init__(self, folder: Path, settings: dict[str, str], workers: int = 1) -> None:
        """Make the stack; nothing is started yet."""
        own = {"SIGHTLINE_ALLOW_NETWORKS": "127.0.0.0/8"}
        self.stack = Stack(folder, settings=settings | own, workers=workers)
        self._workers = workers

    def start(self) -> None:
        """Start every part."""
        self.stack.start()

    def ready(self) -> None:
        """Wait until every worker takes jobs."""
        self.stack.wait_ready()
        if self.stack.workers > 1:
            self._wait_for(self.stack.workers)

    def ready_all(self, workers: int) -> None:
        """Wait until so many workers take jobs."""
        self.stack.wait_ready()
        self._wait_for(workers)

    def _wait_for(self, workers: int) -> None:
        until = time.monotonic() + READY_TIMEOUT_S
        while sum(worker["phase"] == "ready" for worker in self.workers()) < workers:
            self.stack.check()
            if time.monotonic() > until:
                msg = f"fewer than {workers} workers are ready after {READY_TIMEOUT_S} s"
                raise RuntimeError(msg)
            time.sleep(0.5)

    def workers(self) -> list[dict[str, Any]]:
        """Give the workers' notices."""
        with Client(self.stack.url) as client:
            notices: list[dict[str, Any]] = client.request("GET", "/v1/workers")["data"]
            return notices

    @property
    def parts(self) -> dict[str, int]:
        """Its processes."""
        return {name: process.pid for name, process in self.stack.processes.items()}

    @property
    def log(self) -> Path:
        """Its first worker's."""
        return self.stack.log_path("worker-0")

    def run(self, case: Case, files: list[Path], *, clients: int | None = None, webhooks: bool = False) -> Ran:
        """Submit a job for each file, so many at a time, and wait for each, by long-poll or for its webhook."""
        running, ended = list[float](), threading.Event()
        watching = threading.Thread(target=self._watch, args=(running, ended), daemon=True)
        watching.start()
        try:
            client = JobsClient(self.stack.port, self.stack.secret if webhooks else "")
            answered = ask_all(client, case, files, clients or self._workers * service_clients())
        finally:
            ended.set()
            watching.join()
        return _ran(answered, running)

    def _watch(self, running: list[float], ended: threading.Event) -> None:
        while not ended.wait(0.5):
            with suppress(ServiceError):
                running.append(sum(worker["engine_running"] for worker in self.workers()))

    def stop(self) -> None:
        """End every part."""
        self.stack.stop()
