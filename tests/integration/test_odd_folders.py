"""``sightline describe`` where folders, disks, lists and users are not as they should be: no run ends for one file's sake."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Worker
from tests.integration.test_folder import colour, describe, rows_of, table

pytestmark = pytest.mark.usefixtures("worker")


async def test_a_link_that_leads_to_itself_hides_nothing(url: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(colour(1))
    (tmp_path / "round.png").symlink_to(tmp_path / "about.png")
    (tmp_path / "about.png").symlink_to(tmp_path / "round.png")
    (tmp_path / "not.txt").symlink_to(tmp_path / "not.txt")

    done = await describe(tmp_path, "-o", tmp_path / "o.jsonl", "--url", url)
    looked = await describe(tmp_path, "--dry-run", "--url", url)

    codes = {path: (row["error"] or {}).get("code") for path, row in rows_of(tmp_path / "o.jsonl").items()}
    assert codes == {"a.png": None, "about.png": "file", "round.png": "file"}
    assert b"about.png: Too many levels of symbolic links" in done.stderr
    assert looked.stdout.startswith(b"1 file to describe")
    assert (done.returncode, looked.returncode) == (1, 1)


LONG = "x" * 251


@pytest.mark.parametrize("rows", ["o.jsonl", "o.csv", None])
async def test_a_text_that_can_not_stand_beside_its_file_is_one_failure(
    url: str, tmp_path: Path, worker: Worker, rows: str | None
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for n, name in enumerate(["a.png", f"{LONG}.jpg", f"{LONG}.png", "z.png"]):  # two would need 259 bytes
        (tree / name).write_bytes(colour(n))
    (tree / "z.txt").mkdir()
    output = ("-o", tmp_path / rows) if rows else ()

    done = await describe(tree, "--sidecar", "txt", "--url", url, *output)

    assert (done.returncode, (tree / "a.txt").read_text()[:4]) == (1, "1 x "), done.stderr
    assert b"1 described, 3 failed" in done.stderr
    assert f"cannot write {tree}/{LONG}.png.txt: File name too long (sidecar)".encode() in done.stderr
    assert {name for name in os.listdir(tree) if not name.endswith((".png", ".jpg"))} == {"a.txt", "z.txt"}  # noqa: PTH208  # of a loop
    if rows is None:
        assert len(worker.engine.finished) <= 2  # of the others nobody would have the text
        return
    again = await describe(tree, "--sidecar", "txt", "--url", url, *output)
    assert b"4 done before (3 of them failed" in again.stderr
    found: list[dict[str, Any]] = list(rows_of(tmp_path / rows).values()) if rows == "o.jsonl" else list(table(tmp_path / rows))
    assert Counter((row["status"], row["text"][:4]) for row in found) == {("failed", "1 x "): 3, ("succeeded", "1 x "): 1}

    (tree / "z.txt").rmdir()
    retried = await describe(tree, "--sidecar", "txt", "--url", url, *output, "--retry-failed")
    assert b"1 described, 2 failed, 1 done before" in retried.stderr
    assert (tree / "z.txt").is_file()
