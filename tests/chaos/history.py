"""What clients did and saw: the record of a run, which the checker judges. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

FINAL = frozenset({"succeeded", "failed", "cancelled"})


class Answer(StrEnum):
    """What a client knows after it submitted."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNKNOWN = "unknown"  #: no answer, or one that leaves open whether the job is there


@dataclass(frozen=True)
class Submit:
    """One job that a client wanted; ``key`` is the client's own name for it and stands in the job's metadata."""

    key: str
    expected: str  #: the only right output
    answer: Answer
    job_id: str | None = None
    webhook: bool = False
    cancel: bool = False  #: whether its client may have cancelled it


@dataclass(frozen=True)
class Seen:
    """What one reading of a job showed; ``status`` is ``missing`` where there was no record."""

    job_id: str
    at_s: float
    status: str
    text: str | None = None
    code: str | None = None
    finished_at: float | None = None
    attempt: int = 0
    key: str = ""

    @property
    def end(self) -> tuple[str, str | None, str | None, float | None] | None:
        """The part that must never change, once it is there."""
        return (self.status, self.text, self.code, self.finished_at) if self.status in FINAL else None


@dataclass(frozen=True)
class Told:
    """One webhook that arrived."""

    event_id: str
    job_id: str
    status: str


@dataclass(frozen=True)
class Fault:
    """One fault; ``victims`` are the jobs that its target was running at that moment."""

    kind: str
    at_s: float
    target: str = ""
    victims: tuple[str, ...] = ()


@dataclass
class History:
    """All that clients did and saw, in order of time, and what was there at the end."""

    submits: list[Submit] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    last: dict[str, Seen] = field(default_factory=dict)  #: the final reading of every job there is
    told: list[Told] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    leases: list[str] = field(default_factory=list)  #: jobs that still had a lease when everything had ended
