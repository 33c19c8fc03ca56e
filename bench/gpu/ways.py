"""The ways that are compared, each behind the same three calls: start, ready, run."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from multiprocessing.connection import Client as Connect
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import httpx

from bench.gpu.cases import CLIP_FRAMES, PROMPT, Case
from shared.settings import ROOT
from sightline.client import Client, ServiceError
from sightline.receiver import Received, Receiver
from sightline.stack import Stack, free_port

#: More than a worker holds, so that jobs always wait for it.
CLIENTS = 480
#: What vLLM's own server is asked at a time: as many as a worker holds.
SERVER_CLIENTS = 320
API_SERVERS = 8  #: the best of 1 to 8 on an H200
READY_TIMEOUT_S = 420
Done = tuple[float, float, int]


@dataclass
class Ran:
    """What a way did with one case."""

    done: list[Done]
    running: list[float] = field(default_factory=list)  #: requests in the engine's batch, twice a second
    stages_ms: dict[str, float] = field(default_factory=dict)  #: means, where the way tells


class Way(Protocol):
    """Something with an engine that can be started and measured."""

    @property
    def parts(self) -> dict[str, int]:
        """Its processes by name."""

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
        self._log, self._environment = folder / f"{name}.log", environment
        self._connection: Connection | None = None

    def start(self) -> None:
        """Start to load."""
        Path(self._address).unlink(missing_ok=True)
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603  # our own commands
                self._command, env=self._environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    def ready(self) -> None:
        """Wait until it is loaded."""
        until = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < until and self.process.poll() is None:
            try:
                self._connection = self._connection or Connect(self._address, "AF_UNIX")
            except OSError:
                time.sleep(0.2)
                continue
            if self._connection.poll(1.0):
                self._connection.recv()
                return
        msg = f"{self.name} did not start: {self._log.read_text()[-2000:]}"
        raise RuntimeError(msg)

    @property
    def parts(self) -> dict[str, int]:
        """Its processes."""
        return {self.name: self.process.pid}

    def call(self, method: str, files: list[Path], tokens: int) -> list[Done]:
        """Let it do something."""
        assert self._connection is not None  # noqa: S101  # ready() came first
        self._connection.send((method, [str(file) for file in files], tokens))
        answer: list[Done] = self._connection.recv()
        return answer

    def stop(self) -> None:
        """End it."""
        os.killpg(self.process.pid, signal.SIGKILL)  # engines outlive a parent that is killed


async def _spread(count: int, clients: int, ask: Callable[[httpx.AsyncClient, int], Any]) -> None:
    waiting: Iterator[int] = iter(range(count))
    # Servers close connections that were idle for 5 s, which is httpx's own default too: one would fail now and then.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=1.0)
    async with httpx.AsyncClient(timeout=300, trust_env=False, limits=limits) as client:

        async def work() -> None:
            for n in waiting:
                await ask(client, n)

        await asyncio.gather(*(work() for _ in range(clients)))


def data_url(file: Path) -> str:
    """Give a file as a data-URL."""
    kind = "video/mp4" if file.suffix == ".mp4" else "image/jpeg"
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


def _is_cpu_build() -> bool:
    try:
        metadata.version("vllm")
    except metadata.PackageNotFoundError:
        return True  # whose command line asks for the other package's name
    return False


class Server:
    """(e): ``vllm serve`` with several API servers, asked by an asynchronous client."""

    def __init__(self, folder: Path, environment: dict[str, str], arguments: dict[str, Any], pixels: dict[str, int]) -> None:
        """Remember what to start."""
        self.port = free_port()
        flags: list[str] = []
        own = {"port": self.port, "mm_processor_kwargs": pixels}
        for name, value in (arguments | own).items():
            flag = "--" + name.replace("_", "-")
            if name == "model":
                continue
            if isinstance(value, bool):
                flags += [flag if value else "--no-" + flag[2:]]
            elif isinstance(value, int | float | str | dict):
                flags += [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
        flags += ["--media-io-kwargs", json.dumps({"video": {"num_frames": CLIP_FRAMES}})]
        self._model = str(arguments["model"])
        if _is_cpu_build():
            entry = ["vllm.entrypoints.openai.api_server", "--model", self._model]  # one API server
        else:
            entry = ["vllm.entrypoints.cli.main", "serve", self._model, "--api-server-count", str(API_SERVERS)]
        self._command = [sys.executable, "-m", *entry, *flags]
        self._log, self._environment = folder / "serve.log", environment
        self._name = arguments["served_model_name"]

    def start(self) -> None:
        """Start to load."""
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603  # our own commands
                self._command, env=self._environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    def ready(self) -> None:
        """Wait until it answers."""
        until = time.monotonic() + READY_TIMEOUT_S
        with httpx.Client(trust_env=False) as client:
            while time.monotonic() < until and self.process.poll() is None:
                try:
                    if client.get(f"http://127.0.0.1:{self.port}/health").status_code == httpx.codes.OK:
                        return
                except httpx.HTTPError:
                    pass
                time.sleep(0.3)
        msg = f"vllm serve did not start: {self._log.read_text()[-2000:]}"
        raise RuntimeError(msg)

    @property
    def parts(self) -> dict[str, int]:
        """Its processes."""
        return {"serve": self.process.pid}

    def run(self, case: Case, files: list[Path]) -> Ran:
        """Ask for each file, so many at a time."""
        kind = "video_url" if case.is_clips else "image_url"
        bodies = [json.dumps(self._body(kind, data_url(file), case.tokens)).encode() for file in files]
        done: list[Done] = []

        async def ask(client: httpx.AsyncClient, n: int) -> None:
            began, url = time.time(), f"http://127.0.0.1:{self.port}/v1/chat/completions"
            answer = await client.post(url, content=bodies[n], headers={"content-type": "application/json"})
            answer.raise_for_status()
            done.append((began, time.time(), answer.json()["usage"]["completion_tokens"]))

        asyncio.run(_spread(len(bodies), SERVER_CLIENTS, ask))
        return Ran(done)

    def _body(self, kind: str, url: str, tokens: int) -> dict[str, Any]:
        content = [{"type": kind, kind: {"url": url}}, {"type": "text", "text": PROMPT}]
        messages = [{"role": "user", "content": content}]
        return {"model": self._name, "messages": messages, "temperature": 0, "max_tokens": tokens, "ignore_eos": True}

    def stop(self) -> None:
        """End it."""
        os.killpg(self.process.pid, signal.SIGKILL)  # engines outlive a parent that is killed


class Service:
    """(f): Sightline as a user runs it, polled or by webhooks."""

    def __init__(self, folder: Path, settings: dict[str, str], workers: int = 1) -> None:
        """Make the stack; nothing is started yet."""
        own = {"SIGHTLINE_ALLOW_NETWORKS": "127.0.0.0/8"}
        self.stack = Stack(folder / "sightline", settings=settings | own, workers=workers)

    def start(self) -> None:
        """Start every part."""
        self.stack.start()

    def ready(self) -> None:
        """Wait until a job can be served."""
        self.stack.wait_ready()

    def ready_all(self, workers: int) -> None:
        """Wait until so many workers take jobs."""
        self.ready()
        until = time.monotonic() + READY_TIMEOUT_S
        with Client(self.stack.url) as client:
            while sum(w["phase"] == "ready" for w in client.request("GET", "/v1/workers")["data"]) < workers:
                self.stack.check()
                if time.monotonic() > until:
                    msg = f"fewer than {workers} workers are ready after {READY_TIMEOUT_S} s"
                    raise RuntimeError(msg)
                time.sleep(0.5)

    @property
    def parts(self) -> dict[str, int]:
        """Its processes."""
        return {name: process.pid for name, process in self.stack.processes.items()}

    def run(self, case: Case, files: list[Path], *, clients: int = CLIENTS, webhooks: bool = False) -> Ran:
        """Submit a job for each file, so many at a time, and wait for each, by long-poll or for its webhook."""
        return asyncio.run(self._run(case, files, clients, webhooks=webhooks))

    async def _run(self, case: Case, files: list[Path], clients: int, *, webhooks: bool) -> Ran:
        loop, running, jobs = asyncio.get_running_loop(), list[float](), list[tuple[float, float, dict[str, Any]]]()
        arrived: dict[str, asyncio.Future[dict[str, Any]]] = defaultdict(loop.create_future)

        def told(delivery: Received | None) -> None:
            if delivery:
                loop.call_soon_threadsafe(lambda: arrived[delivery.job["id"]].set_result(delivery.job))

        with Receiver(self.stack.secret, on_delivery=told) as receiver:
            hook = {"webhook": {"url": receiver.url}} if webhooks else {}
            headers = {"content-type": "application/json"} | ({} if webhooks else {"prefer": "wait=60"})
            bodies = [json.dumps(self._body(case, file) | hook).encode() for file in files]

            async def ask(client: httpx.AsyncClient, n: int) -> None:
                began = time.time()
                answer = await client.post(f"{self.stack.url}/v1/jobs", content=bodies[n], headers=headers)
                job = answer.raise_for_status().json()
                if webhooks:
                    job = await arrived[job["id"]]
                while job["status"] in {"queued", "running"}:
                    job = (await client.get(f"{self.stack.url}/v1/jobs/{job['id']}", params={"wait": 60})).json()
                assert job["status"] == "succeeded", job  # noqa: S101  # a failed job would make it look fast
                jobs.append((began, time.time(), job["output"]))

            watching = asyncio.create_task(self._watch(running))
            await _spread(len(bodies), clients, ask)
            watching.cancel()
        done = [(began, ended, output["usage"]["output_tokens"]) for began, ended, output in jobs]
        timings = [output["timings_ms"] for _, _, output in jobs]
        return Ran(done, running, {name: round(sum(t[name] for t in timings) / len(jobs), 1) for name in timings[0]})

    async def _watch(self, running: list[float]) -> None:
        with Client(self.stack.url) as client:
            while True:
                await asyncio.sleep(0.5)
                try:
                    workers = await asyncio.to_thread(client.request, "GET", "/v1/workers")
                except ServiceError:
                    continue
                running.append(sum(worker["engine_running"] for worker in workers["data"]))

    def _body(self, case: Case, file: Path) -> dict[str, Any]:
        media = {"type": "video", "video": data_url(file), "nframes": CLIP_FRAMES}
        if not case.is_clips:
            media = {"type": "image", "image": data_url(file)}
        messages = [{"role": "user", "content": [media, {"type": "text", "text": PROMPT}]}]
        sampling = {"temperature": 0, "top_p": 1, "repetition_penalty": 1, "max_tokens": case.tokens}
        return {"messages": messages, "sampling": sampling}

    def stop(self) -> None:
        """End every part."""
        self.stack.stop()
