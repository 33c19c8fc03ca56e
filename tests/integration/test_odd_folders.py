"""``sightline describe`` where folders, disks, lists and users are not as they should be: no run ends for one file's sake."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import resource
import signal
import subprocess
import sys
import termios
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from shared.settings import ROOT
from sightline.cli import app
from sightline.describe.lists import _as_utf8
from sightline.describe.sources import Sources, facts_of
from sightline.screen import Failure
from tests.integration.conftest import Reply, Site, Worker, until
from tests.integration.test_folder import ENVIRONMENT, _is, colour, describe, rows_of, table
from tests.media import clip

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
    assert b"1 described, 3 failed" in done.stderr, done.stderr.decode()[-2500:]
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


@pytest.mark.parametrize("output", ["o.jsonl", "o.csv", "o.parquet", "metadata.jsonl"])
async def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    url: str, tmp_path: Path, worker: Worker, output: str
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for n in range(20):
        (tree / f"{n}.png").write_bytes(colour(n))
    command = (tree, "-o", tmp_path / "out" / output, "--url", url, "--prompt", "x" * 400)

    def no_more() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4500, 4500))

    full = await describe(*command, preexec_fn=no_more)

    said = full.stderr.decode().splitlines()
    assert full.returncode == 1
    assert sum("cannot write" in line and "File too large; run the same command again" in line for line in said) == 1, said
    assert "Traceback" not in full.stderr.decode()
    assert not [name for name in os.listdir(tmp_path / "out") if name.endswith(".new")]  # noqa: PTH208  # of a few
    done = await describe(*command)
    assert b"20 described" not in done.stderr  # some were there
    assert (done.returncode, len(worker.engine.finished)) == (0, 20), done.stderr
    assert (tmp_path / "out" / output).stat().st_size > 4500


@pytest.mark.parametrize("output", ["o.parquet", "metadata.jsonl"])
async def test_what_is_made_at_the_end_and_finds_no_place_is_made_the_next_time(
    url: str, tmp_path: Path, worker: Worker, output: str
) -> None:
    (tmp_path / "a.png").write_bytes(colour(1))
    (tmp_path / f".{output}.new").mkdir()
    command = (tmp_path, "-o", tmp_path / output, "--url", url)

    failed = await describe(*command)
    (tmp_path / f".{output}.new").rmdir()
    done = await describe(*command)

    assert failed.returncode == 1
    assert f"{output}: Is a directory; the same command makes it of the rows".encode() in failed.stderr
    assert (done.returncode, len(worker.engine.finished), (tmp_path / output).exists()) == (0, 1, True)


ODD = [
    b"\xb9\xcf.png",
    b"new\nline.png",
    b"cr\r.png",
    b"esc\x1b[31m.png",
    b"[b].png",
    "e\u0301.png".encode(),
    "\u00e9.png".encode(),
]


@pytest.mark.parametrize("output", ["o.jsonl", "o.csv", "o.parquet", "metadata.jsonl"])
async def test_odd_names_are_known_again_in_every_form(url: str, tmp_path: Path, worker: Worker, output: str) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for n, name in enumerate(ODD):
        (tree / os.fsdecode(name)).write_bytes(colour(n))
    command = (tree, "-o", tmp_path / output, "--url", url)

    for _ in range(2):
        done = await describe(*command)

    assert f"0 described, {len(ODD)} done before".encode() in done.stderr
    if output in {"o.jsonl", "o.csv"}:
        found = rows_of(tmp_path / output) if output == "o.jsonl" else [row["path"] for row in table(tmp_path / output)]
        assert len(found) == len(ODD)


@pytest.mark.parametrize("output", ["o.csv", "metadata.jsonl"])
async def test_a_schema_may_have_names_that_rows_have(url: str, tmp_path: Path, output: str) -> None:
    """The double says the prompt after what it sees, so the service's own check of the schema is not in the way."""
    from sightline.describe.outputs import open_rows
    from sightline.describe.row import Row

    rows, export = open_rows(tmp_path / output, ["text", "path", "colour"])
    rows.append(Row("a.png", "succeeded", "{}", fields={"text": "STOP", "path": "x", "colour": "red"}))
    (row,) = rows.read()
    assert (row.path, row.text, row.fields) == ("a.png", "{}", {"text": "STOP", "path": "x", "colour": "red"})
    if export:
        export(rows, tmp_path / output)
        (line,) = map(json.loads, (tmp_path / output).read_text().splitlines())
        assert (line["text"], line["fields.text"], line["colour"]) == ("{}", "STOP", "red")
    rows.close()


async def test_the_list_of_an_image_folder_names_files_as_seen_from_it(url: str, tmp_path: Path) -> None:
    (tmp_path / "train" / "images").mkdir(parents=True)
    (tmp_path / "train" / "images" / "a.png").write_bytes(colour(1))

    await describe(tmp_path / "train" / "images", "-o", tmp_path / "train" / "metadata.jsonl", "--url", url)

    (line,) = map(json.loads, (tmp_path / "train" / "metadata.jsonl").read_text().splitlines())
    assert line["file_name"] == "images/a.png"


LISTED = "a.png\n\n带 空格.png\n"
LISTS = {
    "linux": LISTED.encode(),
    "windows": LISTED.replace("\n", "\r\n").encode("utf-8-sig"),
    "notepad": LISTED.replace("\n", "\r\n").encode("utf-16"),
    "big_endian": b"\xfe\xff" + LISTED.encode("utf-16-be"),
    "chinese_windows": LISTED.encode("gbk"),
    "copied": '"a.png"\r\n  带 空格.png\t\r\n'.encode(),
    "nul": LISTED.replace("\n\n", "\n").replace("\n", "\0").encode(),
}


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lay out two pictures in the working folder."""
    for n, name in enumerate(["a.png", "带 空格.png"]):
        (tmp_path / name).write_bytes(colour(n))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("form", LISTS)
def test_lists_are_read_as_each_system_writes_them(pair: Path, form: str) -> None:
    Path("list.txt").write_bytes(LISTS[form])

    found = list(Sources([], ["list.txt"]).all())

    assert [(path, facts_of(place).st_size > 0) for path, place, _ in found] == [("a.png", True), ("带 空格.png", True)]


def test_what_is_read_in_pieces_is_the_same(pair: Path) -> None:
    """Pieces end within a line, within a character and between the two bytes that end a line."""
    for form in ("windows", "notepad", "chinese_windows"):
        for size in range(1, 12):
            data = LISTS[form]
            pieces = [data[at : at + size] for at in range(0, len(data), size)]
            assert b"".join(_as_utf8(iter(pieces))) == (data if form == "chinese_windows" else LISTS["windows"][3:])


TABLES = {
    "excel.csv": "编号,图片\r\n1,a.png\r\n2,带 空格.png\r\n".encode("utf-8-sig"),
    "excel_cn.csv": "编号,图片\r\n1,a.png\r\n2,带 空格.png\r\n".encode("gbk"),
    "unicode.tsv": "编号\t图片\r\n1\ta.png\r\n2\t带 空格.png\r\n".encode("utf-16"),
    "semicolons.csv": "编号; 图片 \r\n1;a.png\r\n2; 带 空格.png\r\n".encode(),
    "quoted.csv": '图片,说明\na.png,"两\n行, ""引""号"\n带 空格.png,"x"\n'.encode(),
    "wide.csv": f"图片,x\na.png,{'x' * 200_000}\n带 空格.png,\n".encode(),
    "rows.jsonl": '\ufeff{"图片": "a.png"}\r\n\n{"图片": null}\n{"图片": "带 空格.png"}'.encode(),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_read_as_excel_and_others_write_them(pair: Path, name: str) -> None:
    (pair / "in").mkdir()
    for picture in ("a.png", "带 空格.png"):
        (pair / picture).rename(pair / "in" / picture)
    (pair / "in" / name).write_bytes(TABLES[name])

    assert [path for path, _, _ in Sources([f"in/{name}:图片"]).all()] == ["in/a.png", "in/带 空格.png"]
    assert [path for path, _, _ in Sources([], [f"in/{name}:图片"]).all()] == ["in/a.png", "in/带 空格.png"]
    for table_alone in (Sources([f"in/{name}"]), Sources([], [f"in/{name}"])):
        with pytest.raises(Failure, match="is a table; name the column with the paths"):
            list(table_alone.all())


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("latin.csv", "id,image\n1,été.png\n".encode("cp1252"), "it is not UTF-8; save it as «CSV UTF-8»"),
        ("other.csv", "id,image\n1,größe.png\n".encode("cp1252"), "it is not UTF-8; save it as «CSV UTF-8»"),
        ("broken.jsonl", b'{"image": "a.png"}\n{"image": "b.p\n', "line 2 is no JSON object"),
        ("array.jsonl", b'["a.png"]\n', "line 1 is no JSON object"),
        ("nested.jsonl", b'{"image": {"path": "a.png"}}\n', 'line 1: image is no text, but {"path": "a.png"}'),
        ("none.csv", b"", "has no column image; its columns: none"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_with_its_line(pair: Path, name: str, content: bytes, said: str) -> None:
    Path(name).write_bytes(content)

    with pytest.raises(Failure) as caught:
        list(Sources([f"{name}:image"]).all())

    assert said in str(caught.value)


async def test_names_that_no_file_can_have_fail_alone(url: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(colour(1))
    (tmp_path / "rows.jsonl").write_text(
        '{"image": "a\\u0000.png"}\n{"image": "\\ud800.png"}\n{"image": "a.png"}\n{"image": "%s"}\n' % ("x" * 300)
    )

    done = await describe(f"{tmp_path}/rows.jsonl:image", "-o", tmp_path / "o.jsonl", "--url", url)
    again = await describe(f"{tmp_path}/rows.jsonl:image", "-o", tmp_path / "o.jsonl", "--url", url)

    assert b"1 described, 3 failed" in done.stderr
    assert b"4 done before" in again.stderr
    assert len(rows_of(tmp_path / "o.jsonl")) == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--stream -o o.jsonl", "--stream prints one text; leave out -o"),
        ("--together --sidecar txt", "--together prints one text; leave out -o"),
        ("--together --watch", "--together prints one text; leave out -o"),
        ("b.png --stream", "prints the text of one, and 2 are named; --together"),
        ("--existing append -o o.jsonl", "--existing append is for texts beside files; add --sidecar"),
        ("--existing append --sidecar txt", "--existing append needs -o FILE.jsonl"),
        ("--retry-failed", "name its file with -o"),
        ("- --watch", "standard input can be read once"),
        ("--schema good.json --trigger x", "--schema gives JSON, which --plain"),
        ("--schema text.json", "it is no JSON"),
        ("--schema array.json", "is not that of an object; one is"),
        ("--schema names.json", "is not that of an object; one is"),
        ("--schema list.json", "is not that of an object; one is"),
        ("--sidecar doc", "--sidecar takes txt or caption"),
        ("-o o.txt", "rows are written as .jsonl"),
    ],
)
def test_options_that_make_no_sense_together_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: str, said: str
) -> None:
    """Nobody is asked: there is no service at that address."""
    schemas = {
        "good": "{}",
        "text": "{type: object}",
        "array": '{"type": "array"}',
        "names": '{"properties": ["a"]}',
        "list": "[]",
    }
    for name, text in schemas.items():
        (tmp_path / f"{name}.json").write_text(text, encoding="utf-8-sig")
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(colour(1))
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SystemExit) as ended:
        app(["describe", "a.png", *options.split(), "--url", "127.0.0.1:1"])

    told = capsys.readouterr().err.strip()
    assert (ended.value.code, told.count("\n"), said in told) == (1, 0, True), told


async def test_a_terminal_that_is_closed_ends_it_as_ctrl_c_does(url: str, tmp_path: Path, worker: Worker) -> None:
    for n in range(30):
        (tmp_path / f"{n}.png").write_bytes(colour(n))
    rows = tmp_path / ".o.parquet.rows"
    command = [
        sys.executable,
        "-m",
        "sightline.cli",
        "describe",
        str(tmp_path),
        "-o",
        str(tmp_path / "o.parquet"),
        "--url",
        url,
    ]
    command += ["--window", "3", "--prompt", "!slow 0.3"]
    ours, theirs = pty.openpty()
    own = ENVIRONMENT | {"TERM": "xterm"}

    streams: dict[str, Any] = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": True}
    streams["preexec_fn"] = lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # the terminal is its own, and its end ends it
    process = subprocess.Popen(command, env=own, **streams)  # noqa: ASYNC220
    os.close(theirs)
    await until(lambda: _is(rows.exists() and rows.read_bytes().count(b"\n") >= 3), timeout_s=60)
    os.close(ours)

    assert await asyncio.to_thread(process.wait, 30) == 130
    assert 3 <= rows.read_bytes().count(b"\n") == len(worker.engine.finished) < 30
    assert (tmp_path / "o.parquet").exists()


async def test_under_nohup_it_goes_on(url: str, tmp_path: Path, worker: Worker) -> None:
    (tmp_path / "a.png").write_bytes(colour(1))
    command = [sys.executable, "-m", "sightline.cli", "describe", str(tmp_path), "-o", str(tmp_path / "o.jsonl"), "--url", url]
    command += ["--prompt", "!slow 1.5"]

    with subprocess.Popen(["nohup", *command], env=ENVIRONMENT, stderr=subprocess.PIPE) as process:  # noqa: ASYNC220
        await until(lambda: _is(worker.engine.running == 1), timeout_s=60)
        process.send_signal(signal.SIGHUP)
        _, said = await asyncio.to_thread(process.communicate)

    assert process.returncode == 0
    assert b"1 described" in said


@pytest.mark.parametrize("options", [[], ["--json"], ["--dry-run"]])
async def test_output_to_a_full_disk_is_one_line(url: str, tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "a.png").write_bytes(colour(1))
    command = [sys.executable, "-m", "sightline.cli", "describe", str(tmp_path), "--url", url, *options]

    def run() -> subprocess.CompletedProcess[bytes]:
        with Path("/dev/full").open("wb") as full:
            return subprocess.run(command, env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)

    done = await asyncio.to_thread(run)

    assert done.returncode == 1
    assert b"cannot write the output: No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("output", ["o.jsonl", "o.csv", "o.parquet", "metadata.jsonl"])
@pytest.mark.parametrize("source", [["--include", "*"], ["*"]])
async def test_what_a_run_wrote_into_the_folder_is_not_described(
    url: str, tmp_path: Path, worker: Worker, output: str, source: list[str]
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("a.png", "no suffix"):
        (tree / name).write_bytes(colour(len(name)))
    sources = [tree, *source] if len(source) > 1 else [f"{tree}/*"]

    for _ in range(2):
        done = await describe(*sources, "-o", tree / output, "--sidecar", "txt", "--url", url)

    assert (done.returncode, len(worker.engine.finished)) == (0, 2), done.stderr
    assert b"0 described, 2 done before" in done.stderr
    assert {path.name for path in tree.glob("*.txt")} == {"a.txt", "no suffix.txt"}


async def test_names_that_other_systems_take_for_one_have_texts_of_their_own(url: str, tmp_path: Path) -> None:
    """On a stick, on Windows and on a Mac, Cat.txt and cat.txt are one file, and so are two forms of an é."""
    names = ["Cat.jpg", "cat.png", "e\u0301.png", "\u00e9.jpg", "dog.png"]
    for n, name in enumerate(names):
        (tmp_path / name).write_bytes(colour(n))

    await describe(tmp_path, "--sidecar", "txt", "--url", url)

    texts = {name for name in os.listdir(tmp_path) if name.endswith(".txt")}  # noqa: PTH208  # of a few
    assert texts == {"Cat.jpg.txt", "cat.png.txt", "e\u0301.png.txt", "\u00e9.jpg.txt", "dog.txt"}


async def test_an_address_is_what_it_leads_to_whatever_its_name_says(url: str, tmp_path: Path, site: Site) -> None:
    film, still = Reply(body=clip([0, 128])), Reply(body=colour(1))
    site.by_path |= {
        "/clip?id=3": film,
        "/named.jpg": film,
        "/still.mp4": still,
        "/photo": still,
        "/page": Reply(body=b"<html>"),
    }
    addresses = [f"{site.url}{path}" for path in site.by_path]

    done = await describe(*addresses, "-o", tmp_path / "o.jsonl", "--url", url)

    rows = rows_of(tmp_path / "o.jsonl")
    seen = {path.removeprefix(site.url): (row["text"] or row["error"]["code"])[:4] for path, row in rows.items()}
    assert seen == {
        "/clip?id=3": "2 x ",
        "/named.jpg": "2 x ",
        "/still.mp4": "1 x ",
        "/photo": "1 x ",
        "/page": "unsu",
    }
    assert [row["error"] is None for row in rows.values()].count(False) == 1
    assert b"4 described, 1 failed" in done.stderr
    again = await describe(*addresses, "-o", tmp_path / "o.jsonl", "--url", url)
    assert b"5 done before" in again.stderr


async def test_a_list_comes_through_a_pipe_and_streams_may_be_closed(url: str, tmp_path: Path) -> None:
    odd = ["new\nline.png", "带 空格.png"]
    for n, name in enumerate(odd):
        (tmp_path / name).write_bytes(colour(n))

    async def shell(line: str) -> tuple[int, bytes, bytes]:
        command = f'describe() {{ "{sys.executable}" -m sightline.cli describe --url {url} "$@"; }}; set -o pipefail; {line}'
        done = await asyncio.to_thread(
            lambda: subprocess.run(
                ["bash", "-c", command],
                cwd=tmp_path,
                env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
                capture_output=True,
                timeout=90,
                check=False,
            )
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return done.returncode, done.stdout, done.stderr

    for source in ("--from-file -", "-", "--from-file /dev/stdin"):
        assert (await shell(f"find . -name '*.png' -print0 | describe {source} -o o.jsonl"))[0] == 0, source
    assert rows_of(tmp_path / "o.jsonl").keys() == {f"./{name}" for name in odd}
    assert (await shell("describe --from-file - --watch -o o.jsonl"))[2].count(b"standard input can be read once") == 1
    assert (await shell("describe 带*.png >&-"))[0] == 0
    assert (await shell("describe 带*.png 2>&-"))[1].startswith("带 空格.png: 1 x ".encode())
    assert b"no picture or video" in (await shell("describe - <&-"))[2]
    first = await shell("describe *.png -p '!slow 0.2' --window 1 | head -1")
    assert (first[1].count(b"\n"), first[2]) == (1, b"")
