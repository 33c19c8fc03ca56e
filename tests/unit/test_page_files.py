"""The page's files: vendored libraries as they were fetched, a Chinese word for every English one, nothing from elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import api.main  # noqa: F401  # which brings the errors that are defined beside their routes
from api.page.vendor import FILES, HERE, SUMS, VENDOR, relative, sums
from shared.errors import codes

STATIC = HERE / "static"
OWN = sorted(path for path in STATIC.rglob("*.js") if VENDOR not in path.parents)
SOURCES = {path.relative_to(STATIC).as_posix(): path.read_text() for path in OWN}


def test_the_vendored_files_are_the_ones_that_were_fetched():
    assert sums() == SUMS.read_text()


def test_every_library_is_pinned_by_a_hash_and_brings_its_licence():
    locked = json.loads((HERE / "package-lock.json").read_text())["packages"]
    named = json.loads((HERE / "package.json").read_text())["dependencies"]
    for name, version in named.items():
        assert locked[f"node_modules/{name}"]["version"] == version
        assert locked[f"node_modules/{name}"]["integrity"].startswith("sha512-")
        assert (VENDOR / f"{name.removeprefix('@').replace('/', '-')}.LICENSE").stat().st_size > 500
    assert all((VENDOR / name).exists() for name in FILES.values())


def test_bare_imports_become_relative_ones_and_unknown_ones_are_refused():
    assert relative('import{h}from"preact";import x from "./y.js";') == 'import{h}from"./preact.js";import x from "./y.js";'
    with pytest.raises(KeyError):
        relative('import{h}from"react";')


@pytest.mark.parametrize("name", SOURCES)
def test_every_import_is_a_file_of_the_page(name):
    for target in re.findall(r"(?:from\s*|import\()'([^']+)'", re.sub(r"/\*.*?\*/", "", SOURCES[name], flags=re.DOTALL)):
        assert target.startswith("."), target
        assert (STATIC / name).parent.joinpath(target).resolve().is_file(), target


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_writes_markup_or_asks_another_host(name):
    code = re.sub(r"/\*.*?\*/|(?<!:)//[^\n]*", "", SOURCES[name], flags=re.DOTALL)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", code)
    assert not re.search(r"https?://[a-z0-9]", code)


def test_everything_the_page_says_has_its_chinese():
    chinese = SOURCES["zh.js"] + SOURCES["docs/zh.js"]
    known = {one or two for one, two in re.findall(r"^  (?:'((?:[^'\\]|\\.)+)'|([\w]+)):", chinese, flags=re.MULTILINE)}
    said = {key for text in SOURCES.values() for key in re.findall(r"\bt\('((?:[^'\\]|\\.)+)'", text)}
    assert said - known == set()
    assert all(
        re.search(r"[\u4e00-\u9fff]|top-p|JSON", line)
        for line in chinese.splitlines()
        if line.startswith("  ") and ":" in line and "//" not in line and not line.rstrip().endswith(":")
    )


def test_the_page_knows_what_to_do_about_each_code_of_the_service_and_about_no_other():
    remedies = re.findall(
        r"^  (\w+): \['((?:[^'\\]|\\.)+)', '((?:[^'\\]|\\.)+)'\],$", SOURCES["remedies.js"], flags=re.MULTILINE
    )
    own = {"unreachable", "foreign_answer"}
    assert sorted(code for code, _, _ in remedies) == sorted(codes() | own)
    assert all(re.search(r"[\u4e00-\u9fff]", chinese) for _, _, chinese in remedies)
    made_here = set(re.findall(r"\bcode: '([a-z_]+)'", "".join(SOURCES.values())))
    assert made_here == own


def test_every_file_is_of_a_length_that_can_be_read():
    assert {name: text.count("\n") for name, text in SOURCES.items() if text.count("\n") > 300} == {}


def test_the_page_comes_with_the_package():
    assert Path(VENDOR / "preact.js").is_file()
    assert "node_modules" in (HERE.parent.parent / ".gitignore").read_text()
