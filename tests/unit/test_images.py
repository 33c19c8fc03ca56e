"""What the images hold is what the tests ran with."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement

from api import VERSION
from shared.settings import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pinned(name: str) -> dict[str, str]:
    """Give the versions in a requirement file."""
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / f"requirements/{name}.txt").read_text(), re.MULTILINE))


def called() -> set[str]:
    """Give the packages that our own code calls."""
    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *extras["api"], *extras["worker"], *extras["otel"], *extras["data"]]
    return {Requirement(line).name for line in lines}


@pytest.mark.parametrize("name", ["api", "worker-cpu", "worker-gpu", "gpu"])
def test_what_our_code_calls_has_the_version_that_is_tested(name: str) -> None:
    tested, held = pinned("dev"), pinned(name)
    assert len(called() & held.keys()) > 10
    assert {one: held[one] for one in called() & held.keys()} == {one: tested[one] for one in called() & held.keys()}


@pytest.mark.parametrize("image", ["api", "worker"])
def test_the_label_of_an_image_names_this_version(image: str) -> None:
    assert f"ARG VERSION={VERSION}\n" in (ROOT / f"Dockerfile.{image}").read_text()
