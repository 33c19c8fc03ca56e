"""What an output of ``sightline describe`` is the state of, and what is left of a run that came to nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Worker
from tests.integration.test_folder import colour, describe, rows_of, table

pytestmark = pytest.mark.usefixtures("worker")
FORMS = ["o.jsonl", "o.csv", "o.parquet"]


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Give two folders with other pictures under equal names."""
    folders = tmp_path / "a", tmp_path / "b"
    for n, folder in enumerate(folders):
        folder.mkdir()
        for m in range(3):
            (folder / f"{m}.png").write_bytes(colour(10 * n + m))
    return folders


async def test_equal_names_in_two_folders_of_one_command_are_two_rows(
    url: str, tmp_path: Path, two: tuple[Path, Path], worker: Worker
) -> None:
    command = (*two, "-r", "-o", tmp_path / "o.jsonl", "--url", url)

    await describe(*command)
    again = await describe(*command)

    assert {path: row["text"][12:19] for path, row in rows_of(tmp_path / "o.jsonl").items()} == {
        str(folder / f"{m}.png"): f"#{10 * n + m:02x}0064" for n, folder in enumerate(two) for m in range(3)
    }
    assert b"0 described, 6 done before" in again.stderr
    assert len(worker.engine.finished) == 6


@pytest.mark.parametrize("output", FORMS)
async def test_an_output_does_not_go_on_with_another_folder(
    url: str, tmp_path: Path, two: tuple[Path, Path], worker: Worker, output: str
) -> None:
    first, second = two
    out, state = tmp_path / output, tmp_path / (".o.parquet.rows" if "parquet" in output else output)
    await describe(first, "-o", out, "--url", url)
    before = out.read_bytes(), state.read_bytes()

    others = [await describe(*sources, "-o", out, "--url", url) for sources in ((second,), two, (first / "0.png",))]

    for refused in others:
        assert refused.returncode == 1
        assert b"was begun with another folder: " in refused.stderr
        assert b".png is not the same file as seen from this one" in refused.stderr
    assert (out.read_bytes(), state.read_bytes()) == before
    assert len(worker.engine.finished) == 3


@pytest.mark.parametrize("output", FORMS)
@pytest.mark.parametrize("copy", [shutil.copy2, shutil.copyfile])  # with the times and without
async def test_an_output_goes_on_where_its_folder_was_moved_or_copied_to(
    url: str, tmp_path: Path, two: tuple[Path, Path], worker: Worker, output: str, copy: Any
) -> None:
    folder, moved = two[0], tmp_path / "elsewhere"
    await describe(folder, "-o", tmp_path / output, "--url", url)
    shutil.copytree(folder, moved, copy_function=copy)
    (moved / "0.png").unlink()
    (moved / "new.png").write_bytes(colour(99))

    done = await describe(moved, "-o", tmp_path / output, "--url", url)

    assert (done.returncode, b"1 described, 2 done before" in done.stderr) == (0, True), done.stderr.decode()
    assert len(worker.engine.finished) == 4


async def test_rows_of_absolute_paths_go_on_from_everywhere(url: str, tmp_path: Path, two: tuple[Path, Path]) -> None:
    await describe(two[0] / "0.png", two[0] / "1.png", "-o", tmp_path / "o.jsonl", "--url", url)
    for m in range(2):
        (two[0] / f"{m}.png").unlink()

    done = [await describe(two[1], "-o", tmp_path / "o.jsonl", "--url", url) for _ in range(2)]

    assert [(run.returncode, run.stderr) for run in done] == [(0, b"3 described\n"), (0, b"0 described, 3 done before\n")]
    refused = await describe(two[0], "-o", tmp_path / "o.jsonl", "--url", url)
    assert b"was begun with another folder" in refused.stderr


async def test_pictures_that_were_all_edited_are_described_again(url: str, tmp_path: Path, two: tuple[Path, Path]) -> None:
    await describe(two[0], "-o", tmp_path / "o.csv", "--url", url)
    for m in range(3):
        (two[0] / f"{m}.png").write_bytes(colour(50 + m) + b"edited")

    done = await describe(two[0] / ".." / "a", "-o", tmp_path / "o.csv", "--url", url)

    assert b"3 described" in done.stderr
    assert len(table(tmp_path / "o.csv")) == 3


@pytest.mark.parametrize("output", [*FORMS, "metadata.jsonl"])
async def test_nothing_is_left_beside_an_output_that_came_to_nothing(url: str, tmp_path: Path, output: str) -> None:
    tree, out = tmp_path / "tree", tmp_path / "out"
    tree.mkdir()

    async def left(*more: str) -> tuple[int, list[str]]:
        shutil.rmtree(out, ignore_errors=True)
        done = await describe(*more, "-o", out / output)
        return done.returncode, sorted(path.name for path in out.iterdir())

    assert await left(str(tree), "--url", url) == (0, [output])  # an empty one says that nothing was there
    (tree / "a.png").write_bytes(colour(1))
    assert await left(str(tree), "--url", "http://127.0.0.1:9") == (1, [])
    assert await left(str(tree), "--url", url, "--model", "none") == (1, [])
    assert await left("--from-file", str(tmp_path / "none.txt"), "--url", url) == (1, [])


async def test_a_file_that_was_there_and_is_empty_stays(url: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(colour(1))
    (tmp_path / "o.jsonl").touch()

    await describe(tmp_path, "-o", tmp_path / "o.jsonl", "--url", "http://127.0.0.1:9")
    assert (tmp_path / "o.jsonl").exists()
    await describe(tmp_path, "-o", tmp_path / "o.jsonl", "--url", url)
    assert [json.loads(line)["path"] for line in (tmp_path / "o.jsonl").read_bytes().splitlines()] == ["a.png"]
    assert not (tmp_path / ".o.jsonl.series").exists()
