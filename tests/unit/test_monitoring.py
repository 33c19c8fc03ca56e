"""Rules, boards and runbooks name what exists; each alert is played where promtool is at hand."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.core import Metric

from api.metrics import _fleet, _gauge, _jobs, _proofs
from shared.jobs import JobStatus
from shared.store.tallies import COUNTED, Tally
from tests.unit.test_documents import anchors

ROOT = Path(__file__).parents[2]
RULES = ROOT / "ops/prometheus/rules.yml"
BOARDS = sorted((ROOT / "ops/grafana/dashboards").glob("*.json"))


def existing() -> dict[str, set[str]]:
    """Give what ``/metrics`` shows, and the labels of each."""
    worker = {"name": "host:1-ab12", "phase": "ready", "model": "m"}
    tally = Tally({name: {("0",) * n: 1} for name, n in COUNTED.items()})
    counts = dict.fromkeys(map(str, JobStatus), 0)
    families: list[Metric] = [
        *_jobs(counts, tally),
        *_proofs(tally),
        *_fleet([worker]),
        _gauge("sightline_redis_up", "", [], {(): 1}),
    ]
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def groups() -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
    return rules


def expressions() -> list[str]:
    rules = [rule["expr"] for group in groups() for rule in group["rules"]]
    boards = [json.loads(board.read_text()) for board in BOARDS]
    return rules + [target["expr"] for board in boards for panel in board["panels"] for target in panel["targets"]]


def test_every_metric_and_label_that_is_named_exists() -> None:
    there, recorded = existing(), {rule["record"] for group in groups() for rule in group["rules"] if "record" in rule}
    for expression in expressions():
        names = set(re.findall(r"\bsightline_\w+", expression))
        assert names <= there.keys(), expression
        assert set(re.findall(r"\bsightline:\w+:\w+", expression)) <= recorded, expression
        assert names or "sightline:" in expression, expression
        for labels in re.findall(r"\b(sightline_\w+)\{(.*?)\}", expression):
            assert set(re.findall(r"(\w+)[=!]", labels[1])) <= there[labels[0]], expression


def test_every_alert_has_its_runbook() -> None:
    alerts = [rule for group in groups() for rule in group["rules"] if "alert" in rule]
    assert alerts
    for alert in alerts:
        document, _, anchor = alert["annotations"]["runbook_url"].partition("#")
        assert anchor == alert["alert"].lower()
        assert anchor in anchors(ROOT / document), anchor


def test_codes_that_rules_name_are_codes() -> None:
    from shared.errors import codes

    for named in re.findall(r'code=~?"([\w|]+)"', RULES.read_text()):
        assert set(named.split("|")) <= codes()


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.stem)
def test_a_board_is_bound_to_no_grafana(board: Path) -> None:
    facts = json.loads(board.read_text())
    assert facts["uid"].startswith("sightline-")
    assert "id" not in facts
    assert {panel["datasource"]["uid"] for panel in facts["panels"]} == {"${datasource}"}


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool comes with Prometheus")
def test_each_alert_fires_in_its_failure_and_none_in_a_quiet_hour() -> None:
    command = ["promtool", "test", "rules", "rules_test.yml"]
    played = subprocess.run(command, cwd=RULES.parent, capture_output=True, text=True, check=False)
    assert played.returncode == 0, played.stdout + played.stderr
    tests = yaml.safe_load((RULES.parent / "rules_test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test.get("alert_rule_test", ()) if case["exp_alerts"]}
    assert fired == {rule["alert"] for group in groups() for rule in group["rules"] if "alert" in rule}
