"""Which parts run, which died, and what nobody does. Pure: it reads what the parts have left in Redis, see presence.py."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Where the names of living workers stand: by their heartbeats and, for those of versions before ``notices``, by their leases.
WORKER_INDEXES = ("notices", "workers")
PARTS = "parts"  #: part → when it last said that it is there, ms by Redis's clock
BEAT_S = 3.0  #: a part says so often that it is there
LAPSE_S = 15.0  #: one that has not for so long is gone
#: One that went without a word is remembered for so long; so many of a kind on a host are no accident.
MEMORY_S, MANY = 900.0, 3
LATE_S = 30.0  #: a sender looks each second; what is due for so long has none
#: How each kind is called, and what starts it.
NAMES = {
    "gateway": ("gateway", "python -m api.main"),
    "batches": ("batch runner", "python -m api.batches.main"),
    "webhooks": ("webhook sender", "python -m worker.main webhooks"),
    "jobs": ("worker", "sightline worker"),
    "consumer": ("doorbell consumer of a worker", ""),
}


@dataclass(frozen=True)
class Found:
    """What stands in Redis, at one moment.

    Attributes:
        now_ms: by Redis's clock.
        seen_ms: ``<kind> <host> <token>`` → when that part last said that it is there.
        open_batches: how many are to be run.
        oldest_due_ms: since when the webhook delivery that waits longest is due.
    """

    now_ms: float
    seen_ms: Mapping[str, float]
    open_batches: int
    oldest_due_ms: float = math.inf

    @classmethod
    def ask(cls, pipe: Any, prefix: str) -> None:
        """Put the questions into a pipeline of redis-py's, sync or async, whose replies are decoded."""
        pipe.time()
        pipe.zrange(prefix + PARTS, 0, -1, withscores=True)
        pipe.zcard(prefix + "batches_open")
        pipe.zrange(prefix + "due", 0, 0, withscores=True)

    @classmethod
    def read(cls, answers: Sequence[Any]) -> Found:
        """Read the answers to :meth:`ask`."""
        (seconds, micros), seen, open_batches, due = answers
        return cls(1000 * seconds + micros / 1000, dict(seen), open_batches, due[0][1] if due else math.inf)

    @property
    def living(self) -> Counter[str]:
        """Count the parts that run, by kind."""
        return Counter(member.split(" ")[0] for member, at in self.seen_ms.items() if self.now_ms - at <= 1000 * LAPSE_S)


def remarks(found: Found, *, hosts: bool = False) -> list[str]:
    """Say what is wrong: work that nobody does, and parts that die again and again.

    Args:
        found: from Redis.
        hosts: say where, too: that is for operators, and not for everybody who can ask the gateway.
    """
    problems = []
    living = found.living
    if found.open_batches and not living["batches"]:
        problems.append(f"{_nobody('batches')}, and {found.open_batches} batches wait")
    if found.now_ms - found.oldest_due_ms > 1000 * LATE_S and not living["webhooks"]:
        problems.append(f"{_nobody('webhooks')}, and deliveries wait")
    dead = Counter(tuple(member.split(" ")[:2]) for member, at in found.seen_ms.items() if found.now_ms - at > 1000 * LAPSE_S)
    for (kind, host), times in sorted(dead.items()):
        if times >= MANY:
            where = f" on {host}" if hosts else ""
            name = NAMES.get(kind, (kind, ""))[0]
            problems.append(f"a {name}{where} has died {times} times within {MEMORY_S / 60:.0f} minutes; its log says why")
    return problems


def _nobody(kind: str) -> str:
    name, command = NAMES[kind]
    return f"no {name} runs ({command})"
