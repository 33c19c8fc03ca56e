"""What the scripts count beside their work: read by monitoring, and by whoever says how many workers are needed.

They stand in ``totals``, which each end writes anyway, so that they cost no command, and no process that dies takes them along:
``accepted <class> <model>``, ``end <class> <status> <code> <model>``, ``wait <class> <bucket>`` and ``run <class> <bucket>``
with their sums ``wait_ms <class>`` and ``run_ms <class>``, ``tokens <kind>``, ``rescued``, ``fenced``, ``released <why>`` and
``webhooks <verdict>``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from shared.store.lua import BUCKETS_S
from shared.store.records import Records

Labels = tuple[str, ...]

#: The counts, and how many words stand behind each one's name; the last may have spaces.
COUNTED = {
    "accepted": 2,
    "end": 4,
    "wait": 2,
    "wait_ms": 1,
    "run": 2,
    "run_ms": 1,
    "tokens": 1,
    "rescued": 0,
    "fenced": 0,
    "released": 1,
    "webhooks": 1,
}

#: The minute of the last end, how many ended in it, and in the one before.
BY_MINUTE = ("minute", "ended", "ended_before")


@dataclass(frozen=True)
class Tally:
    """What was counted since the store began, and how long the oldest jobs wait."""

    counts: dict[str, dict[Labels, int]] = field(default_factory=dict)
    oldest_s: dict[str, float] = field(default_factory=dict)  #: by class, of those that may start
    webhook_late_s: float = 0.0  #: how long the first delivery that is due has been so
    ended_recently: int = 0  #: in this minute and the one before

    def of(self, name: str) -> dict[Labels, int]:
        """Give one count, by its labels."""
        return self.counts.get(name, {})

    def spread(self, name: str, priority: str) -> tuple[list[int], float]:
        """Give a histogram: how many were within each bound and the last without one, and their sum in s."""
        inside = Counter(
            {int(bucket): n for (kind, bucket), n in self.of(name).items() if kind == priority and bucket.isdigit()}
        )
        totals, so_far = [], 0
        for n in range(1, len(BUCKETS_S) + 2):
            so_far += inside[n]
            totals.append(so_far)
        return totals, self.of(f"{name}_ms").get((priority,), 0) / 1000

    @property
    def mean_run_s(self) -> float | None:
        """Give how long a job runs; nothing before the first has ended."""
        n = sum(self.of("run").values())
        return sum(self.of("run_ms").values()) / 1000 / n if n else None


class Tallies(Records):
    """Reads the counts."""

    async def look(self) -> Tally:
        """Read all of them; two trips, whatever waits."""
        totals = await self.redis.ask("HGETALL", self._key("totals"))
        counts = read_counts(totals)
        queues = [f"{priority}:{model}" for priority, model in counts.get("accepted", {})]
        *oldest_ms, late_ms, now_ms = await self._run("queue_waits", *queues)
        return Tally(
            counts,
            _by_class(queues, oldest_ms),
            late_ms / 1000,
            ended_recently(now_ms // 60_000, [totals.get(name) for name in BY_MINUTE]),
        )


def read_counts(totals: dict[str, str]) -> dict[str, dict[Labels, int]]:
    """Sort what ``totals`` holds by what is counted; other fields, and damaged ones, are left out."""
    counts: dict[str, dict[Labels, int]] = {}
    for field_name, value in totals.items():
        name, *rest = field_name.split(" ", 1)
        if (n_labels := COUNTED.get(name)) is None or not value.isdigit():
            continue
        labels = tuple(rest[0].split(" ", n_labels - 1)) if rest else ()
        if len(labels) == n_labels:
            counts.setdefault(name, {})[labels] = int(value)
    return counts


def _by_class(queues: Sequence[str], oldest_ms: Sequence[int]) -> dict[str, float]:
    oldest: dict[str, float] = {}
    for queue, ms in zip(queues, oldest_ms, strict=True):
        if ms >= 0:
            priority = queue.partition(":")[0]
            oldest[priority] = max(oldest.get(priority, 0.0), ms / 1000)
    return oldest


def ended_recently(minute: int, seen: Sequence[str | None]) -> int:
    """Count what ended in this minute and the one before.

    Args:
        minute: now, since the epoch.
        seen: of what is counted by the minute, the fields :data:`BY_MINUTE`.
    """
    last, ended, before = (int(number or 0) for number in seen)
    return {0: ended + before, 1: ended}.get(minute - last, 0)
