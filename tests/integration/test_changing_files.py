"""Files that change, go, or become something else while a run is under way: a row each, and never another file's answer."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from sightline.client import Client
from tests.integration.conftest import Worker
from tests.integration.test_folder import colour, describe, rows_of

pytestmark = pytest.mark.usefixtures("worker")
#: More than sockets hold: most of such a file is read after the first of it has arrived.
LONG = 24 * 2**20


@asynccontextmanager
async def told_of_uploads(url: str, tell: Callable[[], object]) -> AsyncIterator[str]:
    """Give the address of a proxy that calls when the first bytes of a file have come, and takes no more before."""

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(2**16):
            if data.startswith(b"POST /v1/files"):
                tell()
            sink.write(data)
            await sink.drain()
        sink.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        whither = urlsplit(url)
        up_reader, up_writer = await asyncio.open_connection(whither.hostname, whither.port)
        await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer), return_exceptions=True)

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(2**20))


def shrink(path: Path) -> None:
    os.truncate(path, 2**20)


def rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(colour(99))
    os.utime(path, (1, 1))  # whatever the file system's clock is like


@pytest.mark.parametrize("change", [grow, shrink, rewrite])
async def test_a_file_that_changes_while_it_is_sent_is_a_row_and_the_next_run_describes_it(
    url: str, tmp_path: Path, worker: Worker, change: Callable[[Path], None]
) -> None:
    tree, out = tmp_path / "tree", tmp_path / "o.jsonl"
    tree.mkdir()
    (tree / "long.png").write_bytes(colour(1) + bytes(LONG))
    (tree / "short.png").write_bytes(colour(2))

    async with told_of_uploads(url, lambda: change(tree / "long.png")) as proxy:
        done = await describe(tree, "-o", out, "--url", proxy)

    row = rows_of(out)["long.png"]
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    assert (row["status"], (row["error"] or {}).get("code"), row.get("sha256")) == ("failed", "file_changed", None)
    assert (done.returncode, rows_of(out)["short.png"]["status"], len(worker.engine.finished)) == (1, "succeeded", 1)
    again = await describe(tree, "-o", out, "--url", url)
    row = rows_of(out)["long.png"]
    assert (again.returncode, row["sha256"]) == (0, hashlib.sha256((tree / "long.png").read_bytes()).hexdigest())


async def test_a_file_that_another_takes_the_place_of_has_the_answer_to_what_was_sent(url: str, tmp_path: Path) -> None:
    tree, out, other = tmp_path / "tree", tmp_path / "o.jsonl", tmp_path / "other"
    tree.mkdir()
    (tree / "a.png").write_bytes(colour(1) + bytes(LONG))
    other.write_bytes(colour(2) + bytes(LONG))
    before, after = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (tree / "a.png", other))

    async with told_of_uploads(url, lambda: other.exists() and other.replace(tree / "a.png")) as proxy:
        await describe(tree, "-o", out, "--url", proxy)

    first = rows_of(out)["a.png"]
    await describe(tree, "-o", out, "--url", url)
    second = rows_of(out)["a.png"]
    assert [(row["sha256"], "#010064" in row["text"], "#020064" in row["text"]) for row in (first, second)] == [
        (before, True, False),
        (after, False, True),
    ]


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("change", "code"), [(Path.unlink, "file"), (_folder, "file"), (_pipe, "file"), (_empty, "empty_file")]
)
@pytest.mark.parametrize("length", [0, 2**19])
async def test_what_can_not_be_read_any_more_is_a_row_and_is_described_once_it_can_be(
    url: str, tmp_path: Path, change: Callable[[Path], None], code: str, length: int
) -> None:
    listed, out, late = tmp_path / "list.txt", tmp_path / "o.jsonl", tmp_path / "late.png"
    (tmp_path / "first.png").write_bytes(colour(1) + bytes(LONG))
    late.write_bytes(colour(2) + bytes(length))
    listed.write_text(f"{tmp_path}/first.png\n{late}\n")

    async with told_of_uploads(url, lambda: change(late)) as proxy:  # with one place, the second waits for the first
        done = await describe("--from-file", listed, "-o", out, "--url", proxy, "--window", "1")

    assert (done.returncode, rows_of(out)[str(late)]["error"]["code"]) == (1, code), done.stderr.decode()
    assert b"1 described, 1 failed" in done.stderr
    still = await describe("--from-file", listed, "-o", out, "--url", url)
    assert b"0 described, 2 done before (1 of them failed" in still.stderr
    shutil.rmtree(late) if late.is_dir() else late.unlink(missing_ok=True)
    late.write_bytes(colour(2) + bytes(length))
    again = await describe("--from-file", listed, "-o", out, "--url", url)
    assert (again.returncode, rows_of(out)[str(late)]["status"]) == (0, "succeeded"), again.stderr.decode()


async def test_the_client_waits_for_no_pipe(url: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    raised = list[Any]()

    def upload() -> None:
        with Client(url) as client, pytest.raises(OSError, match="not a regular file") as error:
            client.upload(tmp_path / "a.png")
        raised.append(error.value)

    thread = threading.Thread(target=upload, daemon=True)
    thread.start()
    await asyncio.to_thread(thread.join, 20)
    if thread.is_alive():  # let it end
        os.close(os.open(tmp_path / "a.png", os.O_RDWR | os.O_NONBLOCK))
    assert raised
