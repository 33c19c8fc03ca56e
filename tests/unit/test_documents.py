"""The documents: their links lead somewhere, and the settings, commands and metrics that they name exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import typer.main

from shared.settings import Settings
from sightline.cli import app
from tests.documents import (
    ELSEWHERE,
    RECORDS,
    ROOT,
    blocks,
    commands_in,
    documents,
    fate,
    inline_commands,
    is_run,
    named,
    prose,
)

#: Variables that are no settings: what people's own receivers and clients read.
OTHER_VARIABLES = {"SIGHTLINE_WEBHOOK_SECRET", "SIGHTLINE_API_KEY", "SIGHTLINE_URL"}


def slug(heading: str) -> str:
    """Name a heading's anchor as forges do."""
    bare = re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", bare).replace(" ", "-")


def anchors(document: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", prose(document), flags=re.MULTILINE)}


@pytest.mark.parametrize("document", documents(), ids=named)
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("document", documents(), ids=named)
def test_settings_that_are_named_exist(document: Path) -> None:
    known = {f"SIGHTLINE_{name.upper()}" for name in Settings.model_fields} | OTHER_VARIABLES
    used = set(re.findall(r"\bSIGHTLINE_[A-Z0-9_]*[A-Z0-9]\b", document.read_text()))
    assert not used - known


@pytest.mark.parametrize("document", ["settings.md", "settings.zh-CN.md"])
def test_every_setting_is_told(document: str) -> None:
    told = set(re.findall(r"`([A-Z0-9_]+)`", (ROOT / "docs" / document).read_text()))
    assert {name.upper() for name in Settings.model_fields} <= told


@pytest.mark.parametrize("document", documents(), ids=named)
def test_commands_that_are_shown_exist(document: Path) -> None:
    """Words and options of ``sightline`` in code; what they do is tested where they are."""
    code = re.findall(r"```(?:sh|bash|console)?\n(.*?)```|`([^`\n]+)`", document.read_text(), flags=re.DOTALL)
    for line in "\n".join(block or span for block, span in code).splitlines():
        for shown in re.findall(r"(?:^|[;&|(] *|[A-Z_]+=\S+ )sightline ([a-z][^#|;&)]*)", line):
            words = shown.split()
            command = typer.main.get_command(app)
            while words and (inner := getattr(command, "commands", None)):
                assert words[0] in inner, shown
                command, words = inner[words[0]], words[1:]
            options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
            asked = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            assert asked <= options | {"--help", "-h"}, shown


@pytest.mark.parametrize("document", documents(), ids=named)
def test_each_command_is_run_by_a_test_or_it_is_said_why_not(document: Path) -> None:
    """Records of what was measured are left out; a block without a language is no shell's."""
    if named(document).startswith(RECORDS):
        return
    shown = [command for block in blocks(document, "sh") for command in commands_in(block)]
    within = [part for command in inline_commands(document) for part in command.split(" && ")]
    assert [command for command in shown if not is_run(command) and not fate(command)] == []
    assert [command for command in within if not fate(command)] == []
    bare = [command for block in blocks(document, "") for command in commands_in(block)]
    assert [command for command in bare if is_run(command) or fate(command)] == [], "such blocks are `sh`"


def test_the_tests_that_run_commands_exist() -> None:
    assert [path for path in ELSEWHERE.values() if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize("document", documents(), ids=named)
def test_targets_modules_and_profiles_that_are_shown_exist(document: Path) -> None:
    text = document.read_text()
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    shown = re.findall(r"(?:^|`|&& )make (?:-C \S+ )?([a-z][\w-]*)", text, flags=re.MULTILINE)
    assert set(shown) <= targets
    modules = re.findall(r"python -m ([a-z_.]+\w)", text)
    assert [name for name in modules if not importlib.util.find_spec(name)] == []
    profiles = re.findall(r"--profile (\w+)", text)
    assert set(profiles) <= set(
        re.findall(r"\w+", " ".join(re.findall(r"profiles: \[(.*)\]", (ROOT / "compose.yaml").read_text())))
    )


@pytest.mark.parametrize("document", documents(), ids=named)
def test_code_that_is_named_exists(document: Path) -> None:
    """Files of this repository, and what stands in them after ``::``."""
    for path, name in re.findall(r"`((?:api|worker|shared|sightline)/[\w/]+\.(?:py|lua))(?:::(\w+))?`", document.read_text()):
        assert (ROOT / path).is_file(), path
        assert not name or re.search(rf"^(?:async )?(?:def|class) {name}\b", (ROOT / path).read_text(), re.MULTILINE), (
            path,
            name,
        )
