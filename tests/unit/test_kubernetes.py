"""The manifests: what kustomize makes of each overlay holds to the rules that a pod of ours has."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.settings import Settings

OVERLAYS = Path(__file__).parents[2] / "deploy/kubernetes/overlays"
NAMES = ("cpu-demo", "gpu", "keda")
pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is needed to build the overlays")


@cache
def built(name: str) -> list[dict[str, Any]]:
    text = subprocess.run(["kubectl", "kustomize", str(OVERLAYS / name)], capture_output=True, text=True, check=True).stdout
    return [document for document in yaml.safe_load_all(text) if document]


def pods(name: str) -> dict[str, dict[str, Any]]:
    return {
        one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in built(name) if "template" in one.get("spec", {})
    }


@pytest.mark.parametrize("name", [*NAMES, "monitoring"])
def test_no_pod_may_more_than_it_needs(name: str) -> None:
    for pod in pods(name).values():
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"]
        for container in pod["containers"] + pod.get("initContainers", []):
            rights = container["securityContext"]
            assert rights["readOnlyRootFilesystem"]
            assert not rights["allowPrivilegeEscalation"]
            assert rights["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("name", NAMES)
def test_each_role_has_time_to_hand_its_jobs_back(name: str) -> None:
    drain_s = Settings.model_fields["drain_s"].default
    ours = {role: pod for role, pod in pods(name).items() if role.startswith("sightline-")}
    assert ours.keys() == {"sightline-gateway", "sightline-batches", "sightline-webhooks", "sightline-worker"}
    assert all(pod["terminationGracePeriodSeconds"] > drain_s for pod in ours.values())
    assert ours["sightline-worker"]["terminationGracePeriodSeconds"] > drain_s + 30


@pytest.mark.parametrize("name", NAMES)
def test_settings_and_volumes_exist(name: str) -> None:
    known = {f"SIGHTLINE_{field.upper()}" for field in Settings.model_fields}
    for document in built(name):
        if document["kind"] in {"ConfigMap", "Secret"}:
            assert set(document.get("data", document.get("stringData", {}))) <= known
    for pod in pods(name).values():
        volumes = {volume["name"] for volume in pod.get("volumes", [])} | {"data"}
        for container in pod["containers"] + pod.get("initContainers", []):
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_a_worker_that_loads_has_as_long_as_its_engine_may_take() -> None:
    probe = pods("gpu")["sightline-worker"]["containers"][0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= Settings.model_fields["engine_start_timeout_s"].default


def test_who_scales_leaves_the_number_of_workers_to_the_scaler() -> None:
    [worker] = [one for one in built("keda") if one["kind"] == "Deployment" and one["metadata"]["name"] == "sightline-worker"]
    assert "replicas" not in worker["spec"]
    [scaled] = [one for one in built("keda") if one["kind"] == "ScaledObject"]
    assert scaled["spec"]["scaleTargetRef"]["name"] == "sightline-worker"
    assert scaled["spec"]["triggers"][0]["metadata"]["valueLocation"] == "desired_workers"


def test_what_watches_is_the_same_as_in_compose() -> None:
    composed = yaml.safe_load((OVERLAYS.parents[2] / "compose.yaml").read_text())["services"]
    assert {name: pod["containers"][0]["image"] for name, pod in pods("monitoring").items()} == {
        name: composed[name]["image"] for name in ("prometheus", "grafana")
    }
    given = {name for one in built("monitoring") if one["kind"] == "ConfigMap" for name in one["data"]}
    folders = ("prometheus", "grafana/provisioning", "grafana/dashboards")
    files = {path.name for folder in folders for path in (OVERLAYS.parents[2] / "ops" / folder).rglob("*.*")}
    assert given == files - {"rules_test.yml"}


def test_no_pod_reaches_the_metadata_address() -> None:
    [policy] = [one for one in built("gpu") if one["kind"] == "NetworkPolicy"]
    blocks = [peer["ipBlock"] for rule in policy["spec"]["egress"] for peer in rule["to"] if "ipBlock" in peer]
    assert blocks
    assert all("169.254.0.0/16" in block["except"] for block in blocks)
