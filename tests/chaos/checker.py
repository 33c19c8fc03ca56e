"""Judges a history in the manner of Jepsen's total-queue: what clients were told against what they saw. Pure.

A job is *accepted* when a client was told its id. From then on the laws hold: it is not lost, it ends, its end is the
right one, it is seen once, and it never changes.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tests.chaos.history import Answer, Fault, History, Seen, Submit

#: The only failure that faults may cause: every attempt that a job had was killed.
LEGAL_FAILURES = frozenset({"worker_lost"})


@dataclass
class Verdict:
    """Ids (or keys) by what is wrong with them; the other figures are for information."""

    accepted: int = 0
    refused: int = 0
    unknown: int = 0
    recovered: int = 0  #: submits without an answer whose job was there all the same
    ran_again: int = 0  #: jobs with more than one attempt
    ends: dict[str, int] = field(default_factory=dict)
    failed_by_code: dict[str, int] = field(default_factory=dict)
    webhook_duplicates: int = 0
    recovery_s: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    visible_twice: list[str] = field(default_factory=list)
    final_changed: list[str] = field(default_factory=list)
    wrong_output: list[str] = field(default_factory=list)
    failed_wrongly: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    webhooks_missing: list[str] = field(default_factory=list)
    webhooks_wrong: list[str] = field(default_factory=list)
    leases_leaked: list[str] = field(default_factory=list)

    @property
    def laws(self) -> dict[str, list[str]]:
        """What must be empty."""
        return {name: value for name, value in vars(self).items() if isinstance(value, list) and name != "recovery_s"}

    @property
    def broken(self) -> list[str]:
        """Names of the laws that did not hold."""
        return [name for name, ids in self.laws.items() if ids]


def check(history: History) -> Verdict:
    """Judge a history."""
    verdict = Verdict(leases_leaked=sorted(history.leases))
    _check_submits(history, verdict)
    _check_ends(history, verdict)
    _check_webhooks(history, verdict)
    verdict.recovery_s = recoveries(history.faults, history.last)
    return verdict


def _check_submits(history: History, verdict: Verdict) -> None:
    jobs_of = defaultdict(set)
    for job_id, seen in history.last.items():
        jobs_of[seen.key].add(job_id)
    answers = Counter(submit.answer for submit in history.submits)
    verdict.accepted, verdict.refused = answers[Answer.ACCEPTED], answers[Answer.REFUSED]
    verdict.unknown = answers[Answer.UNKNOWN]
    for submit in history.submits:
        there = jobs_of.pop(submit.key, set())
        if len(there) > 1:
            verdict.visible_twice.append(submit.key)
        if submit.answer is Answer.UNKNOWN:
            verdict.recovered += bool(there)
        elif submit.answer is Answer.REFUSED:
            verdict.unexpected += sorted(there)
        elif submit.job_id not in there:
            verdict.lost.append(submit.job_id or submit.key)
    verdict.unexpected += sorted(job_id for ids in jobs_of.values() for job_id in ids)


def _check_ends(history: History, verdict: Verdict) -> None:
    by_key = {submit.key: submit for submit in history.submits}
    readings = defaultdict(list)
    for seen in sorted((*history.seen, *history.last.values()), key=lambda seen: seen.at_s):
        readings[seen.job_id].append(seen)
    for job_id, seen_of_job in readings.items():
        if len({seen.end for seen in seen_of_job if seen.end}) > 1:
            verdict.visible_twice.append(job_id)
        if _changed(seen_of_job):
            verdict.final_changed.append(job_id)
    for job_id, last in history.last.items():
        verdict.ran_again += last.attempt > 1
        if last.end is None:
            verdict.stuck.append(job_id)
        elif last.status == "failed" and last.code not in LEGAL_FAILURES:
            verdict.failed_wrongly.append(job_id)
        elif (submit := by_key.get(last.key)) and not _right(submit, last):
            verdict.wrong_output.append(job_id)
    verdict.ends = dict(Counter(last.status for last in history.last.values()))
    verdict.failed_by_code = dict(Counter(last.code or "" for last in history.last.values() if last.status == "failed"))


def _changed(readings: Sequence[Seen]) -> bool:
    """Whether anything else was read after an end had been."""
    ends = [n for n, seen in enumerate(readings) if seen.end]
    return bool(ends) and any(seen.end != readings[ends[0]].end for seen in readings[ends[0] :])


def _right(submit: Submit, last: Seen) -> bool:
    if last.status == "succeeded":
        return last.text == submit.expected
    if last.status == "cancelled":
        return submit.cancel and submit.expected.startswith(last.text or "")
    return True


def _check_webhooks(history: History, verdict: Verdict) -> None:
    events, statuses = defaultdict(set), defaultdict(set)
    for told in history.told:
        events[told.job_id].add(told.event_id)
        statuses[told.job_id].add(told.status)
    verdict.webhook_duplicates = len(history.told) - len({told.event_id for told in history.told})
    wanted = {submit.key for submit in history.submits if submit.webhook}
    for job_id, last in history.last.items():
        if last.end and last.key in wanted and job_id not in events:
            verdict.webhooks_missing.append(job_id)
        if len(events[job_id]) > 1 or statuses[job_id] - {last.status}:
            verdict.webhooks_wrong.append(job_id)


def recoveries(faults: Iterable[Fault], last: Mapping[str, Seen]) -> list[float]:
    """Give, in order, the seconds from each fault to the end of each job that its target was running.

    Where a later fault hit the same job, it had been running again by then: the time up to that fault counts, and the
    rest belongs to the later one.
    """
    hits = defaultdict(list)
    for fault in faults:
        for job_id in fault.victims:
            hits[job_id].append(fault.at_s)
    times = []
    for job_id, at in hits.items():
        ended_at = last[job_id].finished_at if job_id in last else None
        bounds = [*sorted(at), *([ended_at] if ended_at is not None else [])]
        times += [max(0.0, later - earlier) for earlier, later in pairwise(bounds)]
    return sorted(times)


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Give the smallest value that at least this share of the values does not exceed; None where there are none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None
