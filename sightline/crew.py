"""The workers of one machine: a process for each GPU, started again when it dies, drained together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import structlog

from shared.settings import ROOT, Settings
from sightline.stack import die_with_parent

log = structlog.get_logger()

#: The pauses before a worker is started again: a fault that passes costs a second, one that stays a line a minute.
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
#: A worker that lived so long had no fault in its start; the next pause is the first again.
STEADY_S = 120.0
#: Beyond what the settings leave jobs to finish: the engine's own end, and the last writes.
LEAVE_S = 40.0
LOOK_EVERY_S = 0.2


class CrewFailed(Exception):
    """No worker can be started here; the message says what to do."""


@dataclass
class Member:
    """A worker's process, or the wait for its next start."""

    name: str
    process: subprocess.Popen[bytes] | None = None
    start_at_s: float = 0.0
    began_s: float = 0.0
    pause_s: float = FIRST_PAUSE_S


@dataclass
class Crew:
    """Keeps workers running. Each takes its own GPU when it starts, so a new one gets the dead one's.

    Args:
        count: of workers.
        environment: theirs.
        drain_s: what they give their jobs when they are stopped.
        command: starts one.
    """

    count: int
    environment: dict[str, str]
    drain_s: float
    command: tuple[str, ...] = (sys.executable, "-m", "worker.main", "jobs")
    members: list[Member] = field(init=False)

    def __post_init__(self) -> None:
        """Name the workers; none is started yet."""
        self.members = [Member(f"worker-{n}") for n in range(self.count)]

    def run(self) -> None:
        """Start the workers, and again whoever ends, until interrupted."""
        while True:
            for member in self.members:
                self._look(member, time.monotonic())
            time.sleep(LOOK_EVERY_S)

    def _look(self, member: Member, now_s: float) -> None:
        if member.process is None:
            if now_s >= member.start_at_s:
                self._start(member, now_s)
            return
        code = member.process.poll()
        if code is None:
            return
        _kill_group(member.process)  # an engine's own process outlives its worker, and holds the GPU's memory
        if now_s - member.began_s > STEADY_S:
            member.pause_s = FIRST_PAUSE_S
        log.error("worker.died", worker=member.name, pid=member.process.pid, exit_code=code, again_in_s=member.pause_s)
        member.process, member.start_at_s = None, now_s + member.pause_s
        member.pause_s = min(2 * member.pause_s, LONGEST_PAUSE_S)

    def _start(self, member: Member, now_s: float) -> None:
        # In a session of its own: Ctrl-C must reach only this process, which lets all drain.
        member.process = subprocess.Popen(  # noqa: S603  # our own module
            self.command,
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509  # this process has one thread
        )
        member.began_s = now_s
        log.info("worker.started", worker=member.name, pid=member.process.pid)

    def stop(self) -> None:
        """Let all workers drain; a second interrupt, or their time's end, kills them."""
        processes = [member.process for member in self.members if member.process]
        try:
            for process in processes:
                process.terminate()
            until = time.monotonic() + self.drain_s + LEAVE_S
            for process in processes:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, until - time.monotonic()))
        finally:
            for process in processes:
                _kill_group(process)
                process.wait()

    def __enter__(self) -> Self:
        """Begin; :meth:`run` starts the workers."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop the workers, whatever happened."""
        self.stop()


def make_crew(gpus: str | None, settings: Settings) -> Crew:
    """Decide how many workers to run, and on which GPUs.

    Args:
        gpus: ``all``, or a list of indices and UUIDs; left out: one worker, on the first free GPU or none.
        settings: how many GPUs one engine takes.

    Raises:
        CrewFailed: there is no such GPU, or there are too few of them for one engine.
    """
    from worker.gpus import named_gpus, visible_gpus

    environment = dict(os.environ)
    if gpus is None:
        return Crew(1, environment, settings.drain_s)
    there = visible_gpus()
    if not there:
        msg = "no GPU was found here; `sightline doctor` says why. Without --gpus one worker runs on the CPU"
        raise CrewFailed(msg)
    chosen = there if gpus == "all" else named_gpus(gpus, there)
    if gpus != "all" and len(chosen) < len(gpus.split(",")):
        msg = f"--gpus {gpus}: there is no such GPU, or one is named twice; here are {', '.join(map(str, there))}"
        raise CrewFailed(msg)
    size = settings.tensor_parallel_size
    if len(chosen) < size:
        msg = f"one engine takes {size} GPUs (SIGHTLINE_TENSOR_PARALLEL_SIZE), and there are {len(chosen)}"
        raise CrewFailed(msg)
    environment["CUDA_VISIBLE_DEVICES"] = ",".join(str(gpu.index) for gpu in chosen)
    return Crew(len(chosen) // size, environment, settings.drain_s)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
