"""How the scripts that run in Redis are put together."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import resources

import pytest

from shared.store.lua import read_script

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


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_has_each_helper_that_it_uses(script: str) -> None:
    seen: set[str] = set()
    for line in _code(read_script(script, webhook_backlog=1)).splitlines():
        for names in re.findall(r"(?:\blocal function|\blocal|\bfor|\() ?(\w+(?:, \w+)*)", line):
            seen |= set(names.split(", "))
        assert not (_words(line) & HELPERS.keys()) - seen, line


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_names_only_parts_that_it_uses(script: str) -> None:
    text = (FOLDER / f"{script}.lua").read_text()
    named = re.match(r"-- needs: (.*)\n", text)
    for part in named[1].split(", ") if named else []:
        assert _words(_code(text)) & _defined(_part(part)), part


def test_a_part_stands_once_in_a_script_and_after_those_that_it_needs() -> None:
    script = read_script("batch_move", webhook_backlog=1)
    assert script.count("local function write_feed(") == 1
    assert (
        script.index("local function key(")
        < script.index("local function put_due(")
        < script.index("local function deliver_if_wanted(")
    )
    assert "local function finish(" not in script


def test_all_processes_have_the_same_scripts() -> None:
    """Redis keeps each text that it is given until it is restarted: those of other processes must be no others."""
    show = "from shared.store.lua import read_script; print(read_script('claim', webhook_backlog=1))"
    texts = {
        subprocess.run(
            [sys.executable, "-c", show], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(texts) == 1
