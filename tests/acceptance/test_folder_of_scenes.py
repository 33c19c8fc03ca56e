"""A folder of pictures that the model has never seen, described into every form, word for word in Chinese."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import pytest

from demo.scenes import scene

pytestmark = pytest.mark.timeout(600)
SEED = 881_000
#: More by the variable, for a trial: the issue's 300 take minutes.
COUNT = int(os.environ.get("FOLDER_SCENES", "12"))


def describe(stack, *command):
    whole = [sys.executable, "-m", "sightline.cli", "describe", *map(str, command), "--url", stack.url]
    own = {"LANG": "zh_CN.UTF-8", "LC_ALL": "zh_CN.UTF-8", "PYTHONUTF8": "1"}
    done = subprocess.run(whole, env=os.environ | own, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_folder_ends_in_every_form_right_word_for_word(stack, tmp_path):
    """The prompt is the locale's own."""
    import pyarrow.parquet as pq

    tree, truth = tmp_path / "场景", {}
    for n in range(COUNT):
        drawn, name = scene(SEED + n), f"{n % 7}/图 {n}.png"
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(drawn.png())
        truth[name] = drawn.caption("zh")

    describe(stack, tree, "-r", "-o", tmp_path / "o.csv", "--sidecar", "txt")
    describe(stack, tree, "-r", "-o", tmp_path / "o.parquet")

    with (tmp_path / "o.csv").open(encoding="utf-8-sig", newline="") as file:
        by_csv = {row["path"]: row["text"] for row in csv.DictReader(file)}
    by_parquet = {row["path"]: row["text"] for row in pq.read_table(tmp_path / "o.parquet").to_pylist()}
    rows = [json.loads(line) for line in (tmp_path / ".o.parquet.rows").read_bytes().splitlines()]
    beside = {str(path.with_suffix(".png").relative_to(tree)): path.read_text() for path in tree.rglob("*.txt")}
    assert by_csv == by_parquet == {row["path"]: row["text"] for row in rows} == beside
    right = sum(by_csv[name] == caption for name, caption in truth.items())
    assert by_csv.keys() == truth.keys()
    print(f"{right} of {COUNT} scenes right word for word, in the rows, sidecars, CSV and Parquet alike")  # noqa: T201  # a record cites it
    assert right >= 0.98 * COUNT, f"{right} of {COUNT}"  # the toy errs now and then
    assert not any(row["flags"] for row in rows)
