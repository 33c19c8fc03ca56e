"""How many workers the work ahead asks for: a number for autoscalers, which aim at 1 for each."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: What waits should be done in this time; a worker loads for minutes, so less would start more than are needed.
TARGET_S = 120.0
#: The current minute and the one before it span 60 to 120 s; this is the mean.
RECENT_S = 90.0
#: Where this share of the slots is in use, the rate of jobs that end is the workers' capacity.
BUSY = 0.8


@dataclass(frozen=True)
class Load:
    """What is there to do, and who does it."""

    queued: int
    running: int
    ready: int  #: workers
    starting: int  #: workers that load
    slots: int  #: jobs that the ready workers hold at a time
    ended_recently: int
    mean_run_s: float | None  #: of the jobs so far; nothing before the first


@dataclass(frozen=True)
class Demand:
    """What ``GET /v1/queue`` says of it."""

    backlog_s: float | None  #: in which the workers that are ready begin the last job; nothing where that is not known
    desired_workers: int


def demand(load: Load) -> Demand:
    """Say how long what waits takes, and how many workers would do it in :data:`TARGET_S`.

    The number is at least 1 while a job waits or runs, at most the number of jobs, and enough for the running jobs. Before a
    worker is ready, whose pace could be known, it is one, or those that are starting.
    """
    rate = _rate(load)
    backlog_s = 0.0 if not load.queued else load.queued / rate if rate else None
    jobs = load.queued + load.running
    if not jobs:
        return Demand(backlog_s, 0)
    wanted = float(max(1, load.starting + load.ready))
    if load.ready and rate:
        wanted = max(load.queued / (rate / load.ready * TARGET_S), load.running / max(1.0, load.slots / load.ready))
    return Demand(None if backlog_s is None else round(backlog_s, 1), max(1, min(jobs, math.ceil(wanted))))


def _rate(load: Load) -> float:
    """Give how many jobs a second the ready workers end, or could: few end where few came."""
    if not load.ready:
        return 0.0
    measured = load.ended_recently / RECENT_S
    if measured and load.running >= BUSY * load.slots:
        return measured
    return max(measured, load.slots / load.mean_run_s if load.mean_run_s else 0.0)
