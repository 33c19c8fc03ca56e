"""``sightline describe`` over a folder, as its user runs it: odd names, resuming, duplicates, outputs, Ctrl-C, kills."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sightline.client import AsyncClient
from sightline.describe.asking import INLINE_BYTES
from tests.integration.conftest import Worker, until
from tests.media import clip, picture
from tests.terminal import Terminal

pytestmark = pytest.mark.usefixtures("worker")
ENVIRONMENT = dict(os.environ)


async def describe(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    whole = [sys.executable, "-m", "sightline.cli", "describe", *map(str, command)]
    return await asyncio.to_thread(
        lambda: subprocess.run(whole, env=ENVIRONMENT, capture_output=True, timeout=90, check=False, **options)
    )


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    """Read rows, each path once."""
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert len({row["path"] for row in rows}) == len(rows)
    return {row["path"]: row for row in rows}


def colour(n: int) -> bytes:
    return picture((n % 256, n // 256, 100), size=(32, 24))


def large(n: int) -> bytes:
    """Give one that does not travel in its request."""
    return colour(n) + bytes(INLINE_BYTES)


ODD_NAMES = [
    "一只猫.png",
    "with blank.png",
    "new\nline.png",
    "😀.PNG",
    "-dash.png",
    "[b].png",
    "%41.png",
    'quo"te.png',
    "a.b.c.png",
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Lay out a folder of everything that folders hold."""
    tree = tmp_path / "tree"
    for n, name in enumerate(ODD_NAMES):
        path = tree / f"文件夹 {n % 3}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(colour(n))
    (tree / os.fsdecode(b"\xb9\xcf.png")).write_bytes(colour(20))
    (tree / os.fsdecode(b"\xb9\xd0.png")).write_bytes(colour(21))
    for n in range(3):  # equal base names, and equal contents
        (tree / str(n)).mkdir()
        (tree / str(n) / "same.png").write_bytes(colour(30 + n))
        (tree / str(n) / "copy.jpg").write_bytes(colour(40))
    (tree / "film.mp4").write_bytes(clip([0, 128]))
    (tree / "empty.png").touch()
    (tree / "broken.png").write_bytes(b"no picture")
    os.mkfifo(tree / "pipe.png")
    (tree / "link.png").symlink_to(tree / "0" / "same.png")
    (tree / "dangling.png").symlink_to(tree / "nowhere.png")
    (tree / "around").symlink_to(tree, target_is_directory=True)
    for name in ("notes.txt", "._mac.png", "data.json"):
        (tree / name).write_bytes(b"x")
    return tree


def media_in(tree: Path) -> set[str]:
    suffixes = {".png", ".jpg", ".mp4"}
    found = [Path(folder, name) for folder, _, names in os.walk(tree) for name in names if not name.startswith("._")]
    return {str(path.relative_to(tree)) for path in found if path.suffix.lower() in suffixes}


def times(tree: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for path in tree.rglob("*")}


FAILED = {
    "empty.png": "empty_file",
    "broken.png": "unsupported_media",
    "pipe.png": "file",
    "dangling.png": "file",
}


async def test_each_file_has_one_row_and_the_same_command_does_nothing_more(
    url: str, tree: Path, tmp_path: Path, worker: Worker
) -> None:
    before = times(tree)
    command = (tree, "-r", "-o", tmp_path / "out.jsonl", "--url", url)

    first = await describe(*command)

    rows = rows_of(tmp_path / "out.jsonl")
    assert set(rows) == media_in(tree)
    assert {path: row["error"]["code"] for path, row in rows.items() if row["error"]} == FAILED
    assert (first.returncode, first.stdout) == (1, b"")
    assert f"{len(rows) - 4} described, 4 failed" in first.stderr.decode()
    # Equal contents are described once, links among them.
    texts = {rows[f"{n}/copy.jpg"]["job"] for n in range(3)}
    assert len(texts) == 1
    assert rows["link.png"]["job"] == rows["0/same.png"]["job"]
    assert len(worker.engine.finished) == len(rows) - 4 - 3
    assert rows["film.mp4"]["text"].startswith("2 x ")
    assert times(tree) == before

    written = (tmp_path / "out.jsonl").read_bytes()
    again = await describe(*command)
    assert (tmp_path / "out.jsonl").read_bytes() == written
    assert again.returncode == 0
    assert f"0 described, {len(rows)} done before (4 of them failed; --retry-failed" in again.stderr.decode()
    assert len(worker.engine.finished) == len(rows) - 7


async def test_what_is_new_changed_failed_or_flagged_is_described(url: str, tmp_path: Path, worker: Worker) -> None:
    tree, out = tmp_path / "tree", tmp_path / "out.jsonl"
    tree.mkdir()
    for n in range(4):
        (tree / f"{n}.png").write_bytes(colour(n))
    (tree / "bad.png").write_bytes(b"bad")
    command = (tree, "-o", out, "--url", url, "--prompt", "x " * 20, "--max-tokens", "10")
    await describe(*command)
    assert all(row["flags"] == ["truncated"] for path, row in rows_of(out).items() if path != "bad.png")

    (tree / "new.png").write_bytes(colour(9))
    (tree / "0.png").write_bytes(colour(8))  # another picture of the same length
    os.utime(tree / "1.png")  # touched, but the same
    await describe(*command)
    assert len(worker.engine.finished) == 6
    assert "#080064" in rows_of(out)["0.png"]["text"]

    (tree / "bad.png").write_bytes(b"bad again")  # is not the failed one any more
    (tree / "bad.png").write_bytes(b"bad")
    await describe(*command, "--retry-failed")
    assert len(worker.engine.finished) == 6
    (tree / "bad.png").write_bytes(colour(5))
    await describe(*command)
    assert rows_of(out)["bad.png"]["status"] == "succeeded"

    other = await describe(tree, "-o", out, "--url", url, "--prompt", "short")
    assert other.returncode == 1
    assert b"holds answers to another request" in other.stderr
    retried = await describe(tree, "-o", out, "--url", url, "--prompt", "a short one", "--retry-flagged")
    assert retried.returncode == 0, retried.stderr
    rows = rows_of(out)
    assert len(rows) == 6
    assert all(row["text"].endswith("a short one") and not row["flags"] for row in rows.values())


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv"])
async def test_a_torn_row_is_written_again_and_other_files_are_left_alone(
    url: str, tmp_path: Path, worker: Worker, name: str
) -> None:
    tree, out = tmp_path / "tree", tmp_path / name
    tree.mkdir()
    for n in range(6):
        (tree / f'{n} "a",\n猫.png').write_bytes(colour(n))
    command = (tree, "-o", out, "--url", url, "--prompt", '说 "你好",\n再见')
    await describe(*command)
    whole = out.read_bytes()
    for cut in range(len(whole) - 1, len(whole) - 400, -13):
        out.write_bytes(whole[:cut])
        done = await asyncio.to_thread(_reopen, out)
        assert whole.startswith(out.read_bytes())
        assert done in {4, 5}
    await describe(*command)

    texts = [row["text"] for row in rows_of(out).values()] if name.endswith("l") else [row["text"] for row in table(out)]
    assert len(texts) == 6
    assert all(text.endswith('说 "你好",\n再见') for text in texts)
    assert len(worker.engine.finished) == 6  # the service still had the job of the torn one

    out.write_bytes(b"name,age\r\nx,1\r\n")
    refused = await describe(*command)
    assert b"holds something else" in refused.stderr
    assert out.read_bytes() == b"name,age\r\nx,1\r\n"


def _reopen(path: Path) -> int:
    from sightline.describe.outputs import open_rows

    rows, _ = open_rows(path, [])
    count = sum(1 for _ in rows.read())
    rows.close()
    return count


def table(path: Path) -> list[dict[str, str]]:
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


async def test_killed_at_any_moment_it_goes_on(url: str, tmp_path: Path, worker: Worker) -> None:
    tree, out = tmp_path / "tree", tmp_path / "out.jsonl"
    tree.mkdir()
    for n in range(150):
        (tree / f"{n}.png").write_bytes(colour(n) if n % 10 else large(n))
    command = [sys.executable, "-m", "sightline.cli", "describe", str(tree), "-o", str(out), "--url", url]
    command += ["--prompt", "!slow 0.1", "--window", "8"]
    for kill_at in (0, 1, 40, 80, 110):
        process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL)  # noqa: ASYNC220
        if not kill_at:  # jobs are in flight, and no row is there
            await until(lambda: _is(worker.engine.running > 3), timeout_s=60)
        await until(lambda n=kill_at: _is(out.exists() and out.read_bytes().count(b"\n") >= n), timeout_s=60)
        process.kill()
        process.wait()
    done = await describe(*command[4:])

    assert done.returncode == 0, done.stderr
    assert len(rows_of(out)) == 150
    assert len(worker.engine.finished) == 150  # not one twice
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]  # noqa: PTH208  # of a loop

    await describe(*command[4:-1], "4", "-o", tmp_path / "other.jsonl")
    assert len(worker.engine.finished) == 300  # another output asks anew: the model may be another


async def test_only_large_files_are_uploaded_and_then_cleared_away(url: str, tmp_path: Path, worker: Worker) -> None:
    (tmp_path / "small.png").write_bytes(colour(1))
    (tmp_path / "large.png").write_bytes(large(2))
    (tmp_path / "film.mp4").write_bytes(clip([0, 128]))
    out = tmp_path / "o.jsonl"
    async with AsyncClient(url) as client:
        describing = asyncio.create_task(describe(tmp_path, "-o", out, "--url", url, "--prompt", "!hold"))
        await until(lambda: _is(worker.engine.running == 3), timeout_s=60)
        held = [file["filename"] async for file in client.files()]
        worker.engine.let_go.set()
        done = await describing
        left = [file.id async for file in client.files()]

    assert (done.returncode, held, left) == (0, ["large.png"], []), done.stderr
    texts = {path: row["text"].split()[0] for path, row in rows_of(out).items()}
    assert texts == {"small.png": "1", "large.png": "1", "film.mp4": "2"}


async def test_sidecars(url: str, tmp_path: Path, worker: Worker) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name, n in {"cat.jpg": 1, "cat.png": 2, "一只狗.png": 3, "done.png": 4, "empty.png": 5}.items():
        (tree / name).write_bytes(colour(n))
    (tree / "done.txt").write_text("mine")
    (tree / "empty.txt").touch()
    command = (tree, "--sidecar", "txt", "--url", url, "--trigger", "ohwx")

    done = await describe(*command)

    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    texts = {path.name: path.read_text() for path in tree.glob("*.txt")}
    assert set(texts) == {"cat.jpg.txt", "cat.png.txt", "一只狗.txt", "done.txt", "empty.txt"}
    assert texts.pop("done.txt") == "mine"
    assert all(text.startswith("ohwx, 1 x ") for text in texts.values())
    assert not [path for path in tree.iterdir() if path.suffix == ".new"]
    await describe(*command)
    assert len(worker.engine.finished) == 4

    refused = await describe(tree, "--sidecar", "txt", "--existing", "append", "--url", url)
    assert b"needs -o FILE" in refused.stderr
    for _ in range(2):
        await describe(tree, "--sidecar", "txt", "--existing", "append", "-o", tmp_path / "o.jsonl", "--url", url)
    assert (tree / "done.txt").read_text().startswith("mine\n1 x ")
    assert (tree / "done.txt").read_text().count("1 x ") == 1


async def test_csv_has_a_column_for_each_property(url: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(colour(1))
    schema = {"type": "object", "properties": {"colour": {"type": "string"}, "n": {"type": "integer"}}}
    (tmp_path / "schema.json").write_text(json.dumps(schema))

    await describe(tmp_path / "a.png", "-o", tmp_path / "o.csv", "--schema", tmp_path / "schema.json", "--url", url)

    (row,) = table(tmp_path / "o.csv")
    assert {"colour", "n", "flags", "prompt_tokens"} <= set(row)
    assert row["flags"] == "not_json"  # the double knows no schema


async def test_lists_globs_columns_and_what_is_left_out(url: str, tree: Path, tmp_path: Path) -> None:
    listed = "\n".join([str(tree / "0" / "same.png"), "", str(tree / "1" / "same.png"), "data:image/png;base64,AAAA"])
    (tmp_path / "list.csv").write_text("id,image\n1,tree/0/same.png\n2,tree/2/same.png\n")

    from_stdin = await describe("-", "--url", url, "--json", input=listed.encode())
    nul = await describe("-", "--url", url, "--json", input=os.fsencode(tree / "文件夹 2" / "new\nline.png") + b"\0")
    column = await describe(f"{tmp_path / 'list.csv'}:image", "--url", url, "--json")
    by_glob = await describe(f"{tree}/*/same.png", "--url", url, "--json")
    chosen = await describe(tree, "-r", "--include", "*.jpg", "--exclude", "1", "--url", url, "--json")
    none = await describe(f"{tmp_path / 'list.csv'}:picture", "--url", url)
    flat = await describe(tree, "--url", url)

    def paths(done: subprocess.CompletedProcess[bytes]) -> list[str]:
        return [json.loads(line)["path"] for line in done.stdout.splitlines()]

    assert paths(from_stdin) == [line for line in listed.split("\n") if line]
    assert [path.rpartition("/")[2] for path in paths(nul)] == ["new\nline.png"]
    assert paths(column) == [str(tmp_path / "tree" / n / "same.png") for n in "02"]
    assert sorted(paths(by_glob)) == [str(tree / n / "same.png") for n in "012"]
    assert paths(chosen) == ["0/copy.jpg", "2/copy.jpg"]
    assert b"has no column picture; its columns: id, image" in none.stderr
    assert b"folders not entered; -r enters them" in flat.stderr
    assert b"same.png" not in flat.stdout


async def test_tables_as_other_programs_write_them(url: str, tree: Path, tmp_path: Path) -> None:
    tables = {
        "excel.csv": "\ufeff编号;图片\r\n1;tree/0/same.png\r\n2\r\n",  # a short line
        "tabs.tsv": "编号\t图片\n1\ttree/0/same.png\n",
        "holes.jsonl": '{"编号": 1}\n\n{"图片": "tree/0/same.png"}\n{"图片": null}\n',
        "bare.jsonl": '{"编号": 1}\n',
        "header.csv": "编号,图片\n",
        "broken.jsonl": "1\n",
    }
    for name, text in tables.items():
        (tmp_path / name).write_text(text, newline="")
    (tmp_path / "gbk.csv").write_text("编号,图片\n", encoding="gbk")

    async def column(name: str) -> tuple[bytes, bytes]:
        done = await describe(f"{tmp_path / name}:图片", "--url", url, "--dry-run")
        return done.stdout, done.stderr

    for name in ("excel.csv", "tabs.tsv", "holes.jsonl"):
        assert (await column(name))[0].startswith(b"1 file to describe"), name
    assert (await column("header.csv"))[0].startswith(b"0 files to describe")
    assert "has no column 图片; its columns: 编号".encode() in (await column("bare.jsonl"))[1]
    assert b"line 1 is no JSON object" in (await column("broken.jsonl"))[1]
    assert (await column("gbk.csv"))[0].startswith(b"0 files to describe")


async def test_ctrl_c_once_finishes_twice_leaves_and_both_say_how_to_go_on(url: str, tmp_path: Path, worker: Worker) -> None:
    for n in range(30):
        (tmp_path / f"{n}.png").write_bytes(colour(n))
    out = tmp_path / "o.jsonl"
    command = ("describe", str(tmp_path), "-o", str(out), "--url", url, "--window", "3", "--prompt")

    def lines() -> int:
        return out.read_bytes().count(b"\n") if out.exists() else 0

    once = Terminal(*command, "!slow 0.4", environment=ENVIRONMENT)
    await until(lambda: _is(lines() >= 3), timeout_s=60)
    once.process.send_signal(signal.SIGINT)
    code = await asyncio.to_thread(once.wait)
    assert code == 130
    assert "Ctrl-C again to stop now" in once.text
    assert f"to go on: sightline describe {tmp_path} -o {out}" in once.text.replace("\n", "")
    assert lines() == len(worker.engine.finished) < 30

    out.unlink()
    late = Terminal(*command[:-2], "30", "--prompt", "!slow 2", environment=ENVIRONMENT)
    await until(lambda: _is(worker.engine.running + worker.engine.waiting == 30), timeout_s=60)
    late.process.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(late.wait) == 0  # all were under way
    assert (lines(), "30 described" in late.text, "to go on" in late.text) == (30, True, False)

    out.unlink()
    twice = Terminal(*command, "!slow 60", environment=ENVIRONMENT)
    await until(lambda: _is(worker.engine.running == 3), timeout_s=60)
    for _ in range(2):
        twice.process.send_signal(signal.SIGINT)
        await asyncio.sleep(0.3)
    assert await asyncio.to_thread(twice.wait, 10) == 130
    assert "3 jobs that were sent go on in the service" in twice.text
    assert "Traceback" not in twice.text


async def test_bars_are_for_terminals_and_json_for_scripts(url: str, tmp_path: Path) -> None:
    for n in range(20):
        (tmp_path / f"{n}.png").write_bytes(colour(n))
    command = (str(tmp_path), "--url", url, "--window", "2", "--prompt")

    terminal = Terminal("describe", *command, "!slow 0.2", "-o", str(tmp_path / "o.jsonl"), environment=ENVIRONMENT)
    assert await asyncio.to_thread(terminal.wait) == 0
    script = await describe(*command, "!slow 0.3", "-o", tmp_path / "p.csv", "--json")

    assert "20/20" in terminal.text
    assert " left" in terminal.text
    assert "/s · " in terminal.text
    told = [json.loads(line) for line in script.stderr.splitlines()]
    assert [event["event"] for event in told][-1] == "end"
    assert {"progress"} <= {event["event"] for event in told}
    assert (told[-1]["done"], told[-1]["total"], script.stdout) == (20, 20, b"")


async def test_one_writer_at_a_time_and_errors_of_outputs(url: str, tmp_path: Path, worker: Worker) -> None:
    (tmp_path / "a.png").write_bytes(colour(1))
    command = [sys.executable, "-m", "sightline.cli", "describe", str(tmp_path), "--url", url, "-o", str(tmp_path / "o.jsonl")]
    with subprocess.Popen([*command, "--prompt", "!slow 60"], env=ENVIRONMENT, stderr=subprocess.DEVNULL) as first:  # noqa: ASYNC220
        await until(lambda: _is(worker.engine.running == 1), timeout_s=60)
        second = await describe(*command[4:])
        first.kill()

    assert b"another `sightline describe` writes" in second.stderr
    for output, said in {
        tmp_path: b"is a folder",
        tmp_path / "o.doc": b"rows are written as",
        "/proc/o.csv": b"cannot write",
    }.items():
        refused = await describe(tmp_path, "--url", url, "-o", output)
        assert refused.returncode == 1
        assert said in refused.stderr
        assert b"Traceback" not in refused.stderr


async def test_what_would_meet_every_file_ends_the_run(url: str, tmp_path: Path) -> None:
    for n in range(5):
        (tmp_path / f"{n}.png").write_bytes(colour(n))

    done = await describe(tmp_path, "--url", url, "-o", tmp_path / "o.jsonl", "--prompt", "<|image_pad|>")

    assert done.returncode == 1
    assert done.stderr.count(b"which steers the model") == 1
    assert not (tmp_path / "o.jsonl").exists()


async def test_dry_run_stream_and_together(url: str, tree: Path, worker: Worker) -> None:
    dry = await describe(tree, "-r", "--dry-run", "--json", "--url", url)
    facts = json.loads(dry.stdout)
    assert facts["files"] + len(facts["unreadable"]) == len(media_in(tree))
    assert {item["path"] for item in facts["unreadable"]} == FAILED.keys()
    assert facts["left_out"] == 3
    assert not worker.engine.finished
    assert b"files to describe" in (await describe(tree, "-r", "--dry-run", "--url", url)).stdout

    streamed = await describe(tree / "0" / "same.png", "--stream", "--url", url, "--prompt", "!speak 0.01 说 话")
    assert streamed.stdout.decode().endswith("说 话\n")
    together = await describe(tree / "0" / "same.png", tree / "1" / "same.png", "--together", "--url", url)
    assert together.stdout.count(b"1 x ") == 2
    one_bad = await describe(tree / "0" / "same.png", tree / "broken.png", "--together", "--url", url)
    assert f"✗ {tree / 'broken.png'}: this is no picture" in one_bad.stderr.decode()


async def test_a_folder_without_pictures_is_told(url: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "inside").mkdir(parents=True)
    (tree / "notes.txt").write_text("x")

    done = await describe(tree, "-o", tmp_path / "o.jsonl", "--url", url)
    looked = await describe(tree, "--dry-run", "--url", url)

    none, inside = "no picture or video was found there", "1 folder not entered; -r enters them"
    told = f"{none}; 1 other file left alone\n{inside}\n0 described\n"
    assert (done.returncode, done.stderr.decode()) == (0, told)
    assert looked.stdout.decode() == f"0 files to describe, 0 bytes\n1 other file left alone\n{inside}\n"


async def test_a_folder_that_is_watched(url: str, tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(colour(0))
    os.utime(tmp_path / "0.png", (1, 1))
    out = tmp_path / "o.jsonl"
    command = [sys.executable, "-m", "sightline.cli", "describe", str(tmp_path), "--url", url, "-o", str(out), "--watch"]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE) as process:  # noqa: ASYNC220
        await until(lambda: _is(out.exists() and out.read_bytes().count(b"\n") == 1), timeout_s=60)
        (tmp_path / "1.png").write_bytes(colour(1))
        await until(lambda: _is(out.read_bytes().count(b"\n") == 2), timeout_s=60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 130

    assert Counter(row["status"] for row in rows_of(out).values()) == {"succeeded": 2}


@pytest.mark.parametrize("age_s", [60, -3600])  # a share's clock may be ahead
async def test_a_file_that_changes_while_it_is_watched_is_described_again(url: str, tmp_path: Path, age_s: int) -> None:
    tree, out, whole = tmp_path / "tree", tmp_path / "o.jsonl", colour(1)
    tree.mkdir()

    def write(data: bytes, age_s: float) -> None:
        (tmp_path / "new").write_bytes(data)
        os.utime(tmp_path / "new", (time.time() - age_s,) * 2)
        (tmp_path / "new").replace(tree / "0.png")

    def states() -> list[str]:
        return [json.loads(line)["status"] for line in out.read_bytes().splitlines()] if out.exists() else []

    command = [sys.executable, "-m", "sightline.cli", "describe", str(tree), "--url", url, "-o", str(out), "--watch"]
    write(whole[: len(whole) // 2], age_s)  # as if whoever writes it had stopped for a while
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE) as process:  # noqa: ASYNC220
        await until(lambda: _is(states() == ["failed"]), timeout_s=60)
        write(whole, age_s - 1)
        await until(lambda: _is(states() == ["failed", "succeeded"]), timeout_s=60)
        process.send_signal(signal.SIGTERM)
        said = process.communicate()[1]

    assert rows_of(out)["0.png"]["sha256"] == hashlib.sha256(whole).hexdigest()
    assert b"1 described, 1 failed, of 2 found" in said


async def _is(fact: bool) -> bool:  # noqa: FBT001
    return fact


async def test_parquet_and_an_image_folder_of_hugging_face(url: str, tree: Path, worker: Worker) -> None:
    import pyarrow.parquet as pq

    out, listed = tree / "all.parquet", tree / "metadata.jsonl"
    for output in (out, listed, out):  # the last goes on where the first ended
        await describe(tree, "-r", "-o", output, "--url", url)

    table = pq.read_table(out)
    rows = {row["path"]: row for row in table.to_pylist()}
    assert len(rows) == table.num_rows == len(media_in(tree))
    assert rows["1/same.png"]["vision_tokens"] > 0
    assert rows["broken.png"]["error_code"] == "unsupported_media"
    lines = [json.loads(line) for line in listed.read_bytes().splitlines()]
    assert {os.fsdecode(os.fsencode(line["file_name"])) for line in lines} == media_in(tree) - FAILED.keys()
    assert all((tree / line["file_name"]).exists() and line["text"] for line in lines)
    assert len(worker.engine.finished) == 2 * (len(media_in(tree)) - 7)
