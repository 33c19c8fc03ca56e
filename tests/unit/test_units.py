"""The units of systemd, the compose file and the images: what systemd says of the units, and what each part has to have."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from shared.settings import ROOT, Settings

UNITS = sorted((ROOT / "deploy/systemd").glob("*.service"))
PYTHON = "/opt/sightline/.venv/bin/python"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd judges the units")
def test_systemd_finds_nothing_in_the_units_and_holds_them_for_safe(tmp_path: Path) -> None:
    paths = [tmp_path / unit.name.replace("@.", "@0.") for unit in UNITS]
    for unit, path in zip(UNITS, paths, strict=True):
        path.write_text(unit.read_text().replace(PYTHON, sys.executable))
    verified = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    judged = ["systemd-analyze", "security", "--offline=true", "--threshold=25", *paths]
    assert subprocess.run(judged, capture_output=True, check=False).returncode == 0


def test_units_leave_jobs_their_time_and_name_settings_that_exist() -> None:
    known = {f"SIGHTLINE_{field.upper()}" for field in Settings.model_fields}
    drain_s = Settings.model_fields["drain_s"].default
    assert len(UNITS) == 4
    for unit in UNITS:
        text = unit.read_text()
        [stop_s] = re.findall(r"^TimeoutStopSec=(\d+)s$", text, flags=re.MULTILINE)
        assert int(stop_s) >= drain_s + (30 if "worker@" in unit.name else 10)
        assert "KillMode=mixed" in text
        assert "Restart=always" in text  # a part that is told to leave ends with 0, which is no failure to systemd
        assert set(re.findall(r"SIGHTLINE_[A-Z_]+(?==)", text)) <= known
    assert set(re.findall(r"^SIGHTLINE_\w+", (ROOT / "deploy/systemd/sightline.env").read_text(), flags=re.MULTILINE)) <= known


def test_no_part_of_the_compose_file_fills_the_disk_with_its_log() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert all(service["logging"]["options"]["max-file"] for service in services.values())
    assert all(service["pids_limit"] for service in services.values())
    assert {name for name, service in services.items() if "mem_limit" not in service} == {"redis"}


def test_images_say_the_version_that_they_are() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name in ("Dockerfile.api", "Dockerfile.worker"):
        text = (ROOT / name).read_text()
        assert f"ARG VERSION={version}\n" in text
        assert "org.opencontainers.image.licenses" in text
