"""Two runs over the same files: what is equal, what differs, and what cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sightline.cli import app
from sightline.compare import compare
from sightline.describe.row import Row
from sightline.screen import Failure


def run_of(path: Path, *rows: Row) -> Path:
    path.write_bytes(b"".join(row.as_json() for row in rows))
    return path


def said(name: str, text: str, *, run: str = "a", sha256: str = "0" * 64) -> Row:
    return Row(name, "succeeded", text, sha256=sha256, job=f"job_{run}_{name}")


def test_what_is_equal_and_what_differs(tmp_path: Path) -> None:
    first = run_of(
        tmp_path / "a.jsonl", said("1.jpg", "一只黑猫"), said("2.jpg", "a red bus"), said("3.jpg", "old"), said("3.jpg", "x y")
    )
    second = run_of(
        tmp_path / "b.jsonl",
        said("1.jpg", "一只黑猫", run="b"),
        said("2.jpg", "a red car", run="b"),
        said("3.jpg", "nothing", run="b"),
        said("4.jpg", "alone", run="b"),
        Row("5.jpg", "failed", error={"code": "media_unreadable"}),
    )

    found = compare(first, second)

    assert (found.files, found.equal, found.only_in_first, found.only_in_second) == (3, 1, 0, 1)
    assert [(d.path, d.first, d.second) for d in found.differences] == [
        ("3.jpg", "x y", "nothing"),
        ("2.jpg", "a red bus", "a red car"),
    ]
    assert found.share == pytest.approx(1 / 3)


def test_the_command_tells_people_and_programs(tmp_path: Path) -> None:
    first = run_of(tmp_path / "bf16.jsonl", said("图.jpg", "一只[黑]猫"), said("2.jpg", "same"))
    second = run_of(tmp_path / "fp8.jsonl", said("图.jpg", "一只白猫", run="b"), said("2.jpg", "same", run="b"))

    shown = CliRunner().invoke(app, ["compare", str(first), str(second)])
    document = json.loads(CliRunner().invoke(app, ["compare", str(first), str(second), "--json"]).stdout)

    assert shown.exit_code == 0
    assert "一只[黑]猫" in shown.stdout
    assert "1 of 2 answers are equal (50.0%)" in shown.stderr
    assert (document["files"], document["equal"], document["share"]) == (2, 1, 0.5)
    assert document["differences"][0]["path"] == "图.jpg"


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    first = run_of(tmp_path / "a.jsonl", said("1.jpg", "x"))

    with pytest.raises(Failure, match="no described file in common"):
        compare(first, run_of(tmp_path / "b.jsonl", said("2.jpg", "x", run="b")))
    with pytest.raises(Failure, match="is not the same file in both runs"):
        compare(first, run_of(tmp_path / "c.jsonl", said("1.jpg", "x", run="b", sha256="1" * 64)))
    with pytest.raises(Failure, match="the second run asked for nothing new"):
        compare(first, first)
    with pytest.raises(Failure, match=r"cannot read .*none\.jsonl: No such file"):
        compare(first, tmp_path / "none.jsonl")
    (tmp_path / "page.jsonl").write_text("<html>\n")
    with pytest.raises(Failure, match="holds no rows"):
        compare(first, tmp_path / "page.jsonl")
    (tmp_path / "torn.jsonl").write_bytes(first.read_bytes() + b'{"path": "2.j')
    with pytest.raises(Failure, match="same job"):
        compare(first, tmp_path / "torn.jsonl")
