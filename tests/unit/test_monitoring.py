"""Rules, boards and runbooks name what exists; each alert is played where promtool is at hand."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import Metric

from api import http_metrics as http
from api.batches import metrics as batches
from api.key_metrics import Tenant, families
from api.metrics import _fleet, _gauge, _jobs, _proofs
from shared.jobs import JobStatus
from shared.store.tallies import COUNTED, Tally
from tests.chaos.alerts import PLAYED, hurried
from tests.unit.test_documents import anchors
from worker import job_metrics
from worker.metrics import WorkerMetrics
from worker.phase import Readiness
from worker.supervisor import EngineSupervisor
from worker.webhooks import metrics as sender

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
    return {sample.name: set(sample.labels) for family in families for sample in family.samples} | of_processes()


def of_processes() -> dict[str, set[str]]:
    """Give what the processes show at ports of their own."""
    found: dict[str, set[str]] = {"process_resident_memory_bytes": set()}
    for metric in (*vars(job_metrics).values(), *vars(batches).values(), *vars(sender).values(), *vars(http).values()):
        labels = set(getattr(metric, "_labelnames", ()))
        if isinstance(metric, Histogram):
            found |= {f"{metric._name}_{end}": labels for end in ("count", "sum")} | {f"{metric._name}_bucket": labels | {"le"}}
        elif isinstance(metric, Counter | Gauge):
            found[metric._name + ("_total" if isinstance(metric, Counter) else "")] = labels
    worker = WorkerMetrics({}, 1, Readiness(), cast("EngineSupervisor", SimpleNamespace(restarts=0, engine=None)))
    worker.close()
    told = (*worker.collect(), *families([Tenant("key_a", "a", 1, 1, {"jobs": 1}, {"jobs": 1})]))
    # All are scraped under these names, too.
    mine = found | {sample.name: set(sample.labels) for family in told for sample in family.samples}
    return {name: labels | {"job", "instance"} for name, labels in mine.items()}


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
        names = set(re.findall(r"\b(?:sightline|process)_\w+", expression))
        assert names <= there.keys(), expression
        assert set(re.findall(r"\bsightline:\w+:\w+", expression)) <= recorded, expression
        assert names or "sightline:" in expression or "vllm:" in expression, (
            expression
        )  # vLLM's: tests/acceptance/test_boards.py
        for labels in re.findall(r"\b((?:sightline|process)_\w+)\{(.*?)\}", expression):
            assert set(re.findall(r"(\w+)[=!]", labels[1])) <= there[labels[0]], expression


def test_every_alert_has_its_runbook() -> None:
    alerts = [rule for group in groups() for rule in group["rules"] if "alert" in rule]
    assert alerts
    for alert in alerts:
        document, _, anchor = alert["annotations"]["runbook_url"].partition("#")
        assert anchor == alert["alert"].lower()
        assert anchor in anchors(ROOT / document), anchor


def test_every_alert_is_played_by_a_failure_of_real_processes() -> None:
    assert set().union(*PLAYED.values()) == {rule["alert"] for group in groups() for rule in group["rules"] if "alert" in rule}
    assert not re.search(r"(\[|offset |for: )\d+[mh]", hurried(RULES.read_text()))


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


def test_boards_are_held_against_the_schema_of_the_grafana_that_shows_them() -> None:
    package = json.loads((ROOT / "ops/grafana/package.json").read_text())
    image = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["grafana"]["image"]
    assert image.endswith(f":{package['devDependencies']['@grafana/schema']}")


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool comes with Prometheus")
def test_each_alert_fires_in_its_failure_and_none_in_a_quiet_hour() -> None:
    command = ["promtool", "test", "rules", "rules_test.yml"]
    played = subprocess.run(command, cwd=RULES.parent, capture_output=True, text=True, check=False)
    assert played.returncode == 0, played.stdout + played.stderr
    tests = yaml.safe_load((RULES.parent / "rules_test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test.get("alert_rule_test", ()) if case["exp_alerts"]}
    assert fired == {rule["alert"] for group in groups() for rule in group["rules"] if "alert" in rule}
