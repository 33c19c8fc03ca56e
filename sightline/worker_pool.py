"""The workers of one machine: a process for each GPU, started again when it dies, drained together."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from shared.settings import ROOT, Settings
from shared.variables import absolute_paths
from sightline.part_log import PartLog, open_log
from sightline.screen import Failure, Waiting, bad, note
from sightline.stack import die_with_parent, kill_group
from sightline.worker_heartbeats import heartbeats, waited_for

log = structlog.get_logger()

#: The pauses before a worker is started again: a fault that passes costs a second, one that stays a line a minute.
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
#: A worker that lived so long had no fault in its start; the next pause is the first again.
STEADY_S = 120.0
#: Beyond what the settings leave jobs to finish: the engine's own end, and the last writes.
LEAVE_S = 40.0
LOOK_EVERY_S = 0.2


class WorkerPoolFailed(Failure):
    """No worker can be started here; the message says what to do."""


@dataclass
class Member:
    """A worker's process, or the wait for its next start."""

    name: str
    process: subprocess.Popen[bytes] | None = None
    start_at_s: float = 0.0
    began_s: float = 0.0
    pause_s: float = FIRST_PAUSE_S
    log: PartLog | None = None


@dataclass
class WorkerPool:
    """Keeps workers running. Each takes its own GPU when it starts, so a new one gets the dead one's.

    Args:
        count: of workers.
        environment: theirs.
        settings: where they say how they are, and what they give their jobs when they are stopped.
        logs: the folder that theirs go to, while notes for people are on the screen; left out: all log to standard error.
        command: starts one.
    """

    count: int
    environment: dict[str, str]
    settings: Settings
    logs: Path | None = None
    command: tuple[str, ...] = (sys.executable, "-m", "worker.main", "jobs")
    members: list[Member] = field(init=False)

    def __post_init__(self) -> None:
        """Name the workers; none is started yet."""
        self.members = [Member(f"worker-{n}") for n in range(self.count)]

    def run(self) -> None:
        """Start the workers, and each that ends again, until interrupted."""
        if self.logs is None:
            while True:
                self._look_at_all()
                time.sleep(LOOK_EVERY_S)
        while True:
            with Waiting() as tell:
                while news := self._waits_for():
                    tell(news)
                    self._look_at_all()
                    time.sleep(LOOK_EVERY_S)
            note(f"ready: {self.count} worker{'' if self.count == 1 else 's'} (logs: {self.logs})")
            while all(member.process for member in self.members):
                self._look_at_all()
                time.sleep(LOOK_EVERY_S)

    def _waits_for(self) -> str:
        """Say what the first worker that is not ready does; nothing when all are."""
        known = heartbeats(self.settings, self._pids)
        if isinstance(known, str):
            return f"waiting for the Redis of SIGHTLINE_REDIS_URL: {known}"
        ready = [heartbeat["name"].rpartition(":")[2].partition("-")[0] for heartbeat in known if heartbeat["phase"] == "ready"]
        for member in self.members:
            if member.process is None or str(member.process.pid) not in ready:
                return f"{member.name}: {member.log.doing() if member.log and member.process else 'starting the worker'}"
        return ""

    @property
    def _pids(self) -> list[int]:
        return [member.process.pid for member in self.members if member.process]

    def _look_at_all(self) -> None:
        for member in self.members:
            self._look(member, time.monotonic())

    def _look(self, member: Member, now_s: float) -> None:
        if member.process is None:
            if now_s >= member.start_at_s:
                self._start(member, now_s)
            return
        code = member.process.poll()
        if code is None:
            return
        kill_group(member.process)  # decoders may outlive their worker; its engine's processes end with its channel to them
        if now_s - member.began_s > STEADY_S:
            member.pause_s = FIRST_PAUSE_S
        if member.log:
            bad(member.log.obituary(member.name, code))
            note(f"it is started again in {member.pause_s:.0f} s")
        else:
            log.error("worker.died", worker=member.name, pid=member.process.pid, exit_code=code, again_in_s=member.pause_s)
        member.process, member.start_at_s = None, now_s + member.pause_s
        member.pause_s = min(2 * member.pause_s, LONGEST_PAUSE_S)

    def _start(self, member: Member, now_s: float) -> None:
        member.log = open_log(self.logs / f"{member.name}.log") if self.logs else None
        environment = self.environment | self.settings.metrics_of(self.members.index(member))
        if member.log:
            environment["SIGHTLINE_LOG_JSON"] = "true"  # it is read again
        with member.log.path.open("ab") if member.log else nullcontext() as output:
            # In a session of its own: Ctrl-C must reach only this process, which lets all drain.
            member.process = subprocess.Popen(  # noqa: S603  # our own module
                self.command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509  # this process has one thread
            )
        member.began_s = now_s
        if not member.log:
            log.info("worker.started", worker=member.name, pid=member.process.pid)

    def stop(self) -> None:
        """Let all workers drain; a second interrupt, or their time's end, kills them."""
        processes = [member.process for member in self.members if member.process]
        try:
            for process in processes:
                process.terminate()
            self._wait_for(processes)
        finally:
            for process in processes:
                kill_group(process)
                process.wait()

    def _wait_for(self, processes: list[subprocess.Popen[bytes]]) -> None:
        until, pids = time.monotonic() + self.settings.drain_s + LEAVE_S, [process.pid for process in processes]
        with Waiting() as tell:
            while (left := [process for process in processes if process.poll() is None]) and time.monotonic() < until:
                if self.logs:
                    tell(waited_for(self.settings, pids))
                with suppress(subprocess.TimeoutExpired):
                    left[0].wait(LOOK_EVERY_S)

    def __enter__(self) -> Self:
        """Begin; :meth:`run` starts the workers."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop the workers, whatever happened."""
        self.stop()


def make_pool(gpus: str | None, settings: Settings, *, logs: Path | None = None) -> WorkerPool:
    """Make the workers of this machine.

    Args:
        gpus: see :func:`workers_on`.
        settings: how many GPUs one engine takes, and which model.
        logs: see :class:`WorkerPool`.

    Raises:
        WorkerPoolFailed: see :func:`workers_on`; or the weights are not there.
    """
    if missing := settings.missing_model:
        raise WorkerPoolFailed(str(missing))
    count, chosen = workers_on(gpus, settings)
    return WorkerPool(count, absolute_paths(os.environ) | chosen, settings, logs)


def workers_on(gpus: str | None, settings: Settings) -> tuple[int, dict[str, str]]:
    """Decide how many workers to run, and on which GPUs.

    Args:
        gpus: ``all``, or a list of indices and UUIDs; left out: one worker, on the first free GPU or none.
        settings: how many GPUs one engine takes.

    Returns:
        How many, and the variables that show them these GPUs alone.

    Raises:
        WorkerPoolFailed: there is no such GPU, or there are too few of them for one engine.
    """
    from worker.gpus import named_gpus, visible_gpus

    if gpus is None:
        return 1, {}
    there = visible_gpus()
    if not there:
        msg = "no GPU was found here; `sightline doctor` says why. Without --gpus one worker runs on the CPU"
        raise WorkerPoolFailed(msg)
    chosen = there if gpus == "all" else named_gpus(gpus, there)
    if gpus != "all" and len(chosen) < len(gpus.split(",")):
        msg = f"--gpus {gpus}: there is no such GPU, or one is named twice; here are {', '.join(map(str, there))}"
        raise WorkerPoolFailed(msg)
    size = settings.tensor_parallel_size
    if len(chosen) < size:
        msg = f"one engine takes {size} GPUs (SIGHTLINE_TENSOR_PARALLEL_SIZE), and there are {len(chosen)}"
        raise WorkerPoolFailed(msg)
    return len(chosen) // size, {"CUDA_VISIBLE_DEVICES": ",".join(str(gpu.index) for gpu in chosen)}
