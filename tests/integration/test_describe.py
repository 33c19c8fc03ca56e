"""``sightline describe`` as its user runs it: in a terminal, into a file, through pipes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from demo.scenes import scene
from shared.settings import Settings
from tests.integration.conftest import Worker, serving, until
from tests.media import picture
from tests.terminal import Terminal, run

pytestmark = pytest.mark.usefixtures("worker")
ENVIRONMENT = dict(os.environ)
#: Longer than a line of the terminal.
PROMPT = "What is this? " * 12


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Give a picture whose name looks like markup, and files that are refused."""
    (tmp_path / "[bold]x[bold] :smile:.png").write_bytes(scene(1).png())
    (tmp_path / "[red]y[red].png").write_bytes(b"no picture")
    return [str(tmp_path / name) for name in ("[bold]x[bold] :smile:.png", "[red]y[red].png", "[b]none[b].png")]


async def in_terminal(*command: str, stdout: Path | None = None) -> tuple[int, str]:
    return await asyncio.to_thread(lambda: run(*command, environment=ENVIRONMENT, stdout=stdout))


async def piped(*command: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    whole = [sys.executable, "-m", "sightline.cli", *command]
    return await asyncio.to_thread(
        lambda: subprocess.run(whole, env=ENVIRONMENT | variables, capture_output=True, timeout=60, check=False)
    )


async def counted(client: httpx.AsyncClient, **wanted: int) -> bool:
    counts = (await client.get("/v1/queue")).json()
    return all(counts[state] == count for state, count in wanted.items())


@pytest.mark.parametrize("options", [["--json"], []])
async def test_what_it_finds_goes_into_the_file_and_nothing_else_does(
    url: str, pictures: list[str], tmp_path: Path, options: list[str]
) -> None:
    code, shown = await in_terminal("describe", *pictures, "--url", url, *options, stdout=tmp_path / "out")

    written = (tmp_path / "out").read_text()
    if options:
        assert [json.loads(line)["path"] for line in written.splitlines()] == pictures
    else:
        assert written.startswith(f"{pictures[0]}: 1 x ")
        assert written.count("\n") == 1
        assert f"✗ {pictures[1]}: this is no picture and no video, but plain text (unsupported_media)" in shown
    assert code == 1  # two are refused
    assert ('"done": 1, "failed": 2' if options else "1 described, 2 failed") in shown


async def test_on_a_terminal_no_line_is_cut_and_brackets_are_shown(url: str, pictures: list[str]) -> None:
    _, shown = await in_terminal("describe", *pictures, "--url", url, "--prompt", PROMPT)

    assert re.search(re.escape(pictures[0]) + ": 1 x [^\n]*" + re.escape(PROMPT.strip()), shown)
    assert f"✗ {pictures[2]}: No such file or directory (file)" in shown.replace("\n", "")


async def test_a_terminal_obeys_no_answer_and_no_name(url: str, tmp_path: Path) -> None:
    (tmp_path / "a\x1b[2J.png").write_bytes(picture())
    (tmp_path / "b\x1b]0;mine\x07.png").write_bytes(b"none")
    command = ("describe", str(tmp_path), "--url", url, "--prompt", "say \x9b31m and \x1b[31m")

    _, shown = await in_terminal(*command)
    _, piped = await in_terminal(*command, stdout=tmp_path / "out")

    assert not [order for order in ("\x1b[2J", "\x1b]0;mine", "\x9b31m", "and \x1b[31m") if order in shown + piped]
    assert "a\\x1b[2J.png: 1 x " in shown
    assert "say \\x9b31m and \\x1b[31m" in shown
    assert "b\\x1b]0;mine\\x07.png" in shown.replace("\n", "")
    assert "say \x9b31m and \x1b[31m" in (tmp_path / "out").read_text()


async def test_pipes_get_results_on_one_and_notes_on_the_other(url: str, pictures: list[str]) -> None:
    done = await piped("describe", *pictures, "--url", url, "--json")

    assert [json.loads(line)["status"] for line in done.stdout.splitlines()] == ["succeeded", "failed", "failed"]
    said = [json.loads(line) for line in done.stderr.splitlines()]
    (end,) = [line for line in said if line["event"] != "progress"]  # counts stand before it on a slow machine
    assert (end["event"], end["done"], end["failed"], end["total"]) == ("end", 1, 2, 3)


async def test_a_reader_that_has_seen_enough_ends_it_without_a_word(url: str) -> None:
    command = f"{sys.executable} -m sightline.cli describe no1 no2 no3 --json --url {url} | head -1"
    done = await asyncio.to_thread(
        lambda: subprocess.run(["/bin/sh", "-c", command], env=ENVIRONMENT, capture_output=True, timeout=60, check=False)
    )

    assert json.loads(done.stdout)["path"] == "no1"
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "variables", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "utf-8"}]
)
async def test_no_character_ends_it(url: str, tmp_path: Path, variables: dict[str, str]) -> None:
    path = tmp_path / os.fsdecode(b"\xb9\xcf.png")  # GBK's, not UTF-8's
    await asyncio.to_thread(path.write_bytes, scene(1).png())
    command = ["describe", str(path), "--url", url, "--prompt", "这是什么"]

    plain, as_json = await piped(*command, **variables), await piped(*command, "--json", **variables)

    assert (plain.returncode, as_json.returncode) == (0, 0), plain.stderr + as_json.stderr
    assert json.loads(as_json.stdout)["text"].endswith("这是什么")


@pytest.mark.parametrize("form", ["{url}/v1", "{url}/", "{place}", "{place}/v1/"])
async def test_the_address_may_be_written_as_people_do(url: str, pictures: list[str], form: str) -> None:
    place = url.removeprefix("http://")

    done = await piped("describe", pictures[0], "--url", form.format(url=url, place=place))

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("url", ["http://[", "127.0.0.1:9"])
async def test_where_nobody_answers_it_is_one_line(url: str, pictures: list[str]) -> None:
    code, shown = await in_terminal("describe", *pictures, "--url", url)

    lines = shown.strip().splitlines()
    assert code == 1
    assert lines[-1].startswith("✗ ")
    assert not any("Traceback" in line for line in lines)


async def test_a_service_that_leaves_is_one_line_and_the_rest_is_told(settings: Settings, pictures: list[str]) -> None:
    """The worker is another's: the job of the first file hangs until the gateway is gone."""
    await asyncio.to_thread(Path(pictures[1]).write_bytes, scene(2).png())
    async with serving(settings) as (client, gateway):
        asking = asyncio.create_task(
            in_terminal("describe", *pictures[:2], "--url", str(client.base_url), "--prompt", "!slow 60")
        )
        await until(lambda: counted(client, running=2), timeout_s=60)
        gateway.kill()
        code, shown = await asking

    assert code == 1
    assert "2 jobs that were sent go on in the service" in shown
    assert "✗ no service answers at" in shown
    assert "Traceback" not in shown


async def test_a_worker_that_is_not_there_is_told(settings: Settings, worker: Worker, pictures: list[str]) -> None:
    await worker.runtime.drain()
    async with serving(settings) as (client, _):
        asking = Terminal("describe", pictures[0], "--url", str(client.base_url), environment=ENVIRONMENT)
        await until(lambda: counted(client, queued=1), timeout_s=60)
        await asyncio.sleep(2)  # it asks twice
        asking.process.kill()
        await asyncio.to_thread(asking.wait)

    assert "no worker is running; the jobs wait until one is" in asking.text


@pytest.mark.parametrize("columns", [30, 40, 80])
async def test_bars_leave_out_what_a_narrow_terminal_has_no_room_for(url: str, tmp_path: Path, columns: int) -> None:
    for n in range(12):
        (tmp_path / f"{n}.png").write_bytes(picture((n, 0, 100), size=(32, 24)))
    (tmp_path / "坏.png").write_bytes(b"no picture")
    command = ("describe", str(tmp_path), "--url", url, "--window", "2", "-p", "!slow 0.3", "-o", str(tmp_path / "o.jsonl"))

    terminal = Terminal(*command, environment=ENVIRONMENT, columns=columns)
    assert await asyncio.to_thread(terminal.wait) == 1

    bars = [piece for piece in re.split(r"(?=looking|describing|done)|\n|✗", terminal.text) if "━" in piece]
    assert any("/13" in bar for bar in bars)
    assert "…" not in terminal.text
    assert max(len(bar.strip()) for bar in bars) < columns
    assert any(" left" in bar for bar in bars) == (columns > 30)
    assert any(" tokens" in bar for bar in bars) == (columns > 40)


async def test_a_terminal_of_another_encoding_shows_chinese_and_no_escapes_for_our_own_signs(url: str) -> None:
    done = await piped("describe", "没有.png", "--url", url, PYTHONIOENCODING="gbk")
    well = await piped("status", "--url", url, PYTHONIOENCODING="gbk")

    assert done.stderr.decode("gbk").startswith("!! 没有.png: No such file")
    assert re.match(r"gateway +http://\S+ +(ok|!!) ", well.stdout.decode("gbk"))  # a worker may be loading


@pytest.mark.own_python
async def test_names_are_the_same_in_every_locale(url: str, tmp_path: Path) -> None:
    folder, out = tmp_path / "中文 照片", tmp_path / "结果.jsonl"
    (folder / "子").mkdir(parents=True)
    (folder / "子" / "图片.png").write_bytes(scene(1).png())
    command = ("describe", str(folder), "-r", "-o", str(out), "-p", "描述", "--url", url)

    narrow = await piped(*command, LC_ALL="POSIX", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    again = await piped(*command)

    rows = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert (narrow.returncode, [row["path"] for row in rows]) == (0, ["子/图片.png"]), narrow.stderr
    assert rows[0]["text"].endswith("描述")
    assert b"0 described, 1 done before" in again.stderr
