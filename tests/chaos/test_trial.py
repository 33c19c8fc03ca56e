"""A small run of the whole system under load and faults: the laws hold. ``make chaos`` is the large one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.chaos.checker import check
from tests.chaos.report import misses, report
from tests.chaos.trial import Trial

BLOWS = {
    "killed": {
        "worker_kill": 1,
        "worker_kill_before_complete": 1,
        "worker_kill_after_complete": 1,
        "gateway_kill_after_submit": 1,
    },
    "rolled": {"worker_term": 3},
}


def ended_by_metrics(text: str) -> Counter[tuple[str, str]]:
    counted = Counter[tuple[str, str]]()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "sightline_jobs_ended_total":
                counted[sample.labels["status"], sample.labels["code"]] += int(sample.value)
    return counted


@pytest.mark.parametrize("name", BLOWS)
def test_the_laws_hold(name: str, tmp_path: Path) -> None:
    # Where nobody is killed no lease may end: not even that of a worker that a busy machine holds up for seconds.
    trial = Trial(tmp_path, seed=7, workers=2, rate=6, lease_s=3 if name == "killed" else 15)
    trial.run(BLOWS[name], seconds=3)
    figures = report(trial.history, check(trial.history), trial.facts)
    assert misses(figures, strict=False) == []
    assert figures["accepted"] > 10
    assert ended_by_metrics(trial.metrics) == Counter((seen.status, seen.code or "") for seen in trial.history.last.values())
    assert sum(figures["faults"].values()) + figures["mines_missed"] == sum(BLOWS[name].values())
