"""The documents: their links lead somewhere, and the settings, commands and metrics that they name exist."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
import typer.main

from shared.settings import Settings
from sightline.cli import app

ROOT = Path(__file__).parents[2]
#: Variables that are no settings: what people's own receivers and clients read.
OTHER_VARIABLES = {"SIGHTLINE_WEBHOOK_SECRET", "SIGHTLINE_API_KEY"}


@cache
def documents() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def named(document: Path) -> str:
    return str(document.relative_to(ROOT))


def slug(heading: str) -> str:
    """Name a heading's anchor as forges do."""
    bare = re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", bare).replace(" ", "-")


def anchors(document: Path) -> set[str]:
    prose = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE)}


@pytest.mark.parametrize("document", documents(), ids=named)
def test_links_lead_somewhere(document: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
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
def test_code_that_is_named_exists(document: Path) -> None:
    """Files of this repository, and what stands in them after ``::``."""
    for path, name in re.findall(r"`((?:api|worker|shared|sightline)/[\w/]+\.(?:py|lua))(?:::(\w+))?`", document.read_text()):
        assert (ROOT / path).is_file(), path
        assert not name or re.search(rf"^(?:async )?(?:def|class) {name}\b", (ROOT / path).read_text(), re.MULTILINE), (
            path,
            name,
        )
