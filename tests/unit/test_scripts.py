"""How the scripts that run in Redis are put together."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from shared.store.lua import read_library

FOLDER = resources.files("shared.store") / "scripts"
SCRIPTS = sorted(file.name.removesuffix(".lua") for file in FOLDER.iterdir() if file.name.endswith(".lua"))
PARTS = sorted(file.name.removesuffix(".lua") for file in (FOLDER / "lib").iterdir())


def _code(text: str) -> str:
    return re.sub(r"--.*|'[^'\n]*'", "", text)


def _part(name: str) -> str:
    return _code((FOLDER / "lib" / f"{name}.lua").read_text())


def _defined(code: str) -> set[str]:
    return {
        name for names in re.findall(r"^local (?:function )?(\w+(?:, \w+)*)", code, re.MULTILINE) for name in names.split(", ")
    } - {"function"}


def _words(code: str) -> set[str]:
    return set(re.findall(r"(?<![\w.:])[A-Za-z_]\w*", code))


HELPERS = {name: part for part in PARTS for name in _defined(_part(part))}


def test_each_helper_stands_before_those_that_use_it() -> None:
    seen: set[str] = set()
    for line in _code(read_library(webhook_backlog=1).text).splitlines():
        for names in re.findall(r"(?:\blocal function|\blocal|\bfor|\() ?(\w+(?:, \w+)*)", line):
            seen |= set(names.split(", "))
        assert not (_words(line) & HELPERS.keys()) - seen, line


def test_no_two_helpers_have_one_name() -> None:
    """The second would hide the first from what stands behind it, and from nothing else."""
    names = [name for part in PARTS for name in _defined(_part(part))]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("part", PARTS)
def test_a_part_names_only_parts_that_it_uses(part: str) -> None:
    text = (FOLDER / "lib" / f"{part}.lua").read_text()
    named = re.match(r"-- needs: (.*)\n", text)
    for needed in named[1].split(", ") if named else []:
        assert _words(_code(text)) & _defined(_part(needed)), needed


def test_nothing_that_a_call_found_out_outlives_it() -> None:
    """Helpers are made once, with their locals: whatever of those is written to is set anew where a call begins."""
    library = _code(read_library(webhook_backlog=1).text)
    begin = re.search(r"^local function begin\(prefix\)\n  ([\w, ]+) = ", library, re.MULTILINE)
    assert begin
    begun = begin[1].split(", ")
    assert {"now_is", "owners", "looked"} <= set(begun)
    for name in HELPERS.keys() - set(begun):
        assert not re.search(rf"(?<!local )(?<![\w.]){name}(\[[^\n]*\]|\.\w+)? = ", library), name


def test_all_processes_have_the_same_library() -> None:
    """Redis keeps each that it is given: those of other processes must be no others."""
    show = "from shared.store.lua import read_library; print(read_library(webhook_backlog=1).text)"
    texts = {
        subprocess.run(
            [sys.executable, "-c", show], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(texts) == 1


def test_each_script_is_called_and_nothing_else_is() -> None:
    """A call of a script that is not there would be found out by Redis alone."""
    root = Path(__file__).resolve().parents[2]
    code = "".join(file.read_text() for top in ("shared", "worker") for file in (root / top).rglob("*.py"))
    assert set(re.findall(r"self\._(?:run|held)\(\s*\"(\w+)\"", code)) == set(SCRIPTS)
