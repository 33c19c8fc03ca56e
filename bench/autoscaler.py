"""KEDA and the HPA played by their rules, on real worker processes with the engine double: from none to eight and back.

``.venv/bin/python -m bench.autoscaler`` scales once by ``desired_workers`` of ``GET /v1/queue`` and once by the number of jobs
that wait, five to a worker, as a scaler of a list does. All times of the rules, and the target of ``desired_workers``, are a
thirtieth of what deploy/kubernetes says; the rate of the last minute, on which that number rests, is not.
One JSON line for each; ``bench.autoscaler long list`` plays one.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from sightline.stack import Stack
from sightline.worker_heartbeats import heartbeats
from tests.media import data_url, picture

SPEED = 30
MOST = 8
POLL_S, SYNC_S, COOLDOWN_S, STABLE_S, PERIOD_S, UP_PERIOD_S = (n / SPEED for n in (15, 15, 1800, 600, 300, 15))
TOLERANCE = 0.1
LOAD_S = 4.0  #: two minutes, played
#: How long a job runs; at which second how many jobs come. The long ones run for longer than the cooldown.
LOADS = {"bursts": (1.0, ((0.0, 120), (40.0, 80), (60.0, 10))), "long": (70.0, ((0.0, 2),))}
GIVE_UP_S = 230.0
SETTINGS = {
    "SIGHTLINE_ENGINE": "tests.double:DoubleEngine",
    "SIGHTLINE_DECODE_PROCESSES": "1",
    "SIGHTLINE_MIN_FREE_BYTES": "0",
    "SIGHTLINE_MAX_NUM_SEQS": "1",
    "SIGHTLINE_DRAIN_S": "2",
}


@dataclass
class Rules:
    """What KEDA and the HPA make of a metric whose target is 1 for each worker. Pure: time comes in."""

    replicas: int = 0
    last_active_s: float = -math.inf
    last_sync_s: float = -math.inf
    wanted: deque[tuple[float, int]] = field(default_factory=deque)
    changed: deque[tuple[float, int]] = field(default_factory=deque)

    def step(self, now_s: float, value: float) -> int:
        """Take a reading; gives how many workers there are to be."""
        if value > 0:  # activationTargetValue
            self.last_active_s = now_s
            self._set(now_s, max(self.replicas, 1))
        elif self.replicas and now_s - self.last_active_s > COOLDOWN_S:
            self.wanted.clear()
            self._set(now_s, 0)
        if self.replicas and now_s - self.last_sync_s >= SYNC_S:
            self.last_sync_s = now_s
            self._sync(now_s, value)
        return self.replicas

    def _sync(self, now_s: float, value: float) -> None:
        near = abs(value / self.replicas - 1) <= TOLERANCE
        self.wanted.append((now_s, self.replicas if near else max(1, min(MOST, math.ceil(value)))))
        while self.wanted[0][0] < now_s - STABLE_S:
            self.wanted.popleft()
        recent, highest = self.wanted[-1][1], max(n for _, n in self.wanted)
        if recent > self.replicas:  # the HPA's own policy: four, or twice as many, in 15 s
            before = self.replicas - self._by(now_s, UP_PERIOD_S, 1)
            self._set(now_s, max(self.replicas, min(recent, max(before + 4, before * 2))))
        elif highest < self.replicas:
            self._set(now_s, max(highest, self.replicas - max(0, 1 + self._by(now_s, PERIOD_S, -1))))

    def _by(self, now_s: float, period_s: float, sign: int) -> int:
        return sum(by for at_s, by in self.changed if at_s > now_s - period_s and by * sign > 0)

    def _set(self, now_s: float, replicas: int) -> None:
        if replicas != self.replicas:
            self.changed.append((now_s, replicas - self.replicas))
            self.replicas = replicas


@dataclass
class Workers:
    """The processes."""

    stack: Stack
    up: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    leaving: list[subprocess.Popen[bytes]] = field(default_factory=list)
    started: list[int] = field(default_factory=list)
    loading_killed: int = 0
    peak: int = 0
    died: int = 0

    def set(self, wanted: int, phases: dict[int, str]) -> None:
        """Start or stop some; those that are not ready go first, then the newest, as a ReplicaSet has it."""
        for name, process in list(self.up.items()):
            if process.poll() is not None:
                self.died += 1
                del self.up[name]
        while len(self.up) < wanted:
            name = f"worker-{len(self.started)}"
            self.up[name] = self.stack.spawn(name, "worker.main", "jobs")
            self.started.append(self.up[name].pid)
        while len(self.up) > wanted:
            last = list(reversed(self.up))
            name = next((one for one in last if phases.get(self.up[one].pid) != "ready"), last[0])
            process = self.up.pop(name)
            self.loading_killed += phases.get(process.pid) != "ready"
            process.terminate()
            self.leaving.append(process)
        self.peak = max(self.peak, len(self.up))


def play(by: str, load: str) -> dict[str, Any]:
    """Play the bursts; gives the figures.

    Args:
        by: ``desired_workers``, or ``list`` for the jobs that wait.
        load: one of :data:`LOADS`.
    """
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder), settings=SETTINGS | {"DOUBLE_LOAD_S": str(LOAD_S)}, workers=0)
        stack.spawn = _scaled(stack)  # type: ignore[method-assign]
        with stack, httpx.Client(base_url=stack.url, timeout=30, trust_env=False) as http:
            stack.wait_ready()
            return {"load": load, "by": by, **_follow(stack, http, by, load)}


def _scaled(stack: Stack) -> Any:
    def spawn(name: str, module: str, *args: str) -> subprocess.Popen[bytes]:
        if name == "gateway":
            return Stack.spawn(stack, name, "bench.autoscaler", "gateway")
        return Stack.spawn(stack, name, module, *args)

    return spawn


def _follow(stack: Stack, http: httpx.Client, by: str, load: str) -> dict[str, Any]:
    rules, workers, bursts, ids = Rules(), Workers(stack), deque(LOADS[load][1]), list[str]()
    began_s = time.monotonic()
    empty_at_s: float | None = None
    while (now_s := time.monotonic() - began_s) < GIVE_UP_S:
        if bursts and now_s >= bursts[0][0]:
            ids += [_submit(http, LOADS[load][0]) for _ in range(bursts.popleft()[1])]
        queue = http.get("/v1/queue").json()
        value = queue["desired_workers"] if by == "desired_workers" else queue["queued"] / 5
        phases = _phases(stack, list(workers.up.values()))
        workers.set(rules.step(now_s, value), phases)
        if not bursts and not queue["load"]:
            empty_at_s = empty_at_s or now_s
            if not workers.up:
                break
        time.sleep(POLL_S)
    return _figures(http, ids, workers, {"seconds": round(now_s), "empty_after_s": empty_at_s and round(empty_at_s)})


def _figures(http: httpx.Client, ids: list[str], workers: Workers, facts: dict[str, Any]) -> dict[str, Any]:
    jobs = [http.get(f"/v1/jobs/{job}").json() for job in ids]
    waits_s = sorted(job["started_at"] - job["created_at"] for job in jobs if job.get("started_at"))
    busy = {int(job["output"]["text"].split()[-1]) for job in jobs if job.get("output")}
    return {
        **facts,
        "jobs": len(ids),
        "lost": sum("id" not in job for job in jobs),
        "not_succeeded": sum(job.get("status") != "succeeded" for job in jobs),
        "attempts_above_1": sum(job.get("attempt", 0) > 1 for job in jobs),
        "most_workers": workers.peak,
        "left": len(workers.up),
        "started": len(workers.started),
        "wasted_starts": len(set(workers.started) - busy),
        "loading_killed": workers.loading_killed,
        "died": workers.died,
        "wait_p50_s": round(waits_s[len(waits_s) // 2], 1),
        "wait_p95_s": round(waits_s[int(len(waits_s) * 0.95)], 1),
        "load_average": round(os.getloadavg()[0], 1),
    }


def _submit(http: httpx.Client, run_s: float) -> str:
    body = {"prompt": f"!slow {run_s} !pid", "images": [data_url(picture())]}
    return str(http.post("/v1/jobs", json=body).raise_for_status().json()["id"])


def _phases(stack: Stack, processes: list[subprocess.Popen[bytes]]) -> dict[int, str]:
    known = heartbeats(stack.effective, [process.pid for process in processes])
    if not isinstance(known, list):
        raise TypeError(known)  # why Redis does not answer
    return {int(one["name"].rpartition(":")[2].partition("-")[0]): str(one["phase"]) for one in known}


def main() -> int:
    """Play both, or be the gateway with a target that is as much shorter; gives the exit code."""
    if sys.argv[1:] == ["gateway"]:
        from api import autoscaling
        from api.main import main as serve

        autoscaling.TARGET_S /= SPEED  # type: ignore[misc]
        serve()
        return 0
    for load in LOADS:
        for by in ("desired_workers", "list"):
            if sys.argv[1:] in ([], [load, by]):
                sys.stdout.write(json.dumps(play(by, load)) + "\n")
                sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
