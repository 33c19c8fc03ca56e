"""``sightline describe`` where folders, disks, lists and users are not as they should be: no run ends for one file's sake."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.test_folder import colour, describe, rows_of

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
