"""What a worker is doing, and whether it takes jobs."""

from __future__ import annotations

import asyncio
from enum import StrEnum


class Phase(StrEnum):
    """What a worker is doing; published, so that a slow start cannot be taken for a hang."""

    STARTING = "starting"
    LOADING = "loading"  #: the engine reads the weights and warms up, at the start or after a death
    READY = "ready"
    DRAINING = "draining"  #: takes no more jobs, finishes those in flight


class Readiness:
    """A worker's phase, and the event that doorbells wait for."""

    def __init__(self) -> None:
        """Begin with nothing loaded."""
        self.phase = Phase.STARTING
        self.event = asyncio.Event()  #: set while jobs are taken, and for good once the worker leaves

    @property
    def takes_jobs(self) -> bool:
        """Whether a job may be claimed now."""
        return self.phase is Phase.READY

    def suspend(self) -> None:
        """Take no job until an engine is there: one that met a dead engine would be suspected for nothing."""
        if self.phase is not Phase.DRAINING:
            self.phase = Phase.LOADING
            self.event.clear()

    def resume(self) -> None:
        """Take jobs, unless the worker leaves."""
        if self.phase is Phase.LOADING:
            self.phase = Phase.READY
        self.event.set()

    def leave(self) -> None:
        """Take no more jobs; doorbells that wait for an engine return."""
        self.phase = Phase.DRAINING
        self.event.set()
