"""A claimed job in flight, and its rank among those beside it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from shared.jobs import Priority, Stage
from shared.store.claims import Claim
from worker.attempt import Attempt
from worker.engines.base import Engine

#: A job goes behind newer ones of a more urgent class for this long, so that none starves in the engine.
GRACE_S = {Priority.INTERACTIVE: 0, Priority.DEFAULT: 10, Priority.BULK: 60}


def urgency(claim: Claim) -> int:
    """Rank a job among those that wait for decoders or the engine, smaller first: by age, with a handicap for its class."""
    return int((claim.created_at + GRACE_S[claim.priority]) * 1000)


@dataclass(frozen=True)
class Death:
    """An engine's death, and what tells of its cause."""

    engine: Engine
    has_served: bool  #: it had answered something since it was loaded
    in_engine: list[Running]  #: the culprit is among them, if a job is to blame
    are_stopped: asyncio.Event = field(default_factory=asyncio.Event)  #: all of them

    def is_proof_against(self, claim: Claim) -> bool:
        """Whether this death shows that a job kills engines: it was alone in it, and this is its second death, or its third.

        The second is enough where the engine had answered something before.

        An engine that died before it answered anything may have been at fault itself, or its machine.
        """
        return len(self.in_engine) == 1 and claim.engine_deaths >= (2 if self.has_served else 3)


@dataclass
class Running:
    """A claimed job in flight."""

    claim: Claim
    task: asyncio.Task[None] = field(init=False)
    #: Its task has taken its first step. One that is cancelled before never runs at all, and would clear nothing away.
    has_begun: bool = False
    stage: Stage = Stage.FETCHING
    timings_ms: dict[str, int] = field(default_factory=dict)
    attempt: Attempt = field(default_factory=Attempt)  #: what its trace is told
    #: Who stops it before its end: its client, its lease that went to another worker, or the engine's death.
    stopped_by: Literal["client", "lease", "engine"] | None = None
    settling: bool = False  #: its end is being written; from here on nothing may stop it
    needs_place: bool = True  #: not while it waits for others to be written with

    @property
    def request_id(self) -> str:
        """The engine's name for this attempt."""
        return f"{self.claim.job_id}-{self.claim.fence}"
