"""The commands around jobs, as their users run them against a gateway with a worker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from api import VERSION
from shared.settings import ROOT
from sightline import __version__
from sightline.client import AsyncClient
from tests.conftest import WEBHOOK_SECRET
from tests.integration.conftest import Site, Worker, until
from tests.media import data_url, picture

ENVIRONMENT = {**os.environ, "COLUMNS": "200"}
JOB = {"prompt": "这是什么", "images": [data_url(picture())]}


async def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-m", "sightline.cli", *command]
    return await asyncio.to_thread(
        lambda: subprocess.run(whole, env=ENVIRONMENT | variables, capture_output=True, text=True, timeout=60, check=False)
    )


async def test_jobs_are_listed_read_waited_for_and_cancelled(url: str, worker: Worker) -> None:
    async with AsyncClient(url) as client:
        good = await (await client.submit(JOB | {"metadata": {"path": "猫.png"}})).wait()
        bad = await (await client.submit(JOB | {"prompt": "!long"})).wait()
        slow = await client.submit(JOB | {"prompt": "!slow 600"})

    listed = await run("jobs", "list", "--url", url)
    none = await run("jobs", "list", "--group", "nobody's", "--url", url)
    failed = await run("jobs", "list", "--status", "failed", "--json", "--url", url)
    got = await run("jobs", "get", good.id, "--url", url)
    waited = await run("jobs", "wait", good.id, bad.id, "--url", url)
    late = await run("jobs", "wait", slow.id, "--timeout", "0.2", "--url", url)
    cancelled = await run("jobs", "cancel", slow.id, good.id, "job_no", "--url", url)
    events = await run("jobs", "events", good.id, "--url", url)

    assert (none.stdout, none.stderr) == ("", "no such jobs\n")
    lines = listed.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [slow.id, bad.id, good.id]
    assert '"猫.png"' in lines[2]
    assert lines[2].endswith("这是什么")
    assert [json.loads(line)["id"] for line in failed.stdout.splitlines()] == [bad.id]
    assert json.loads(got.stdout)["output"]["text"] == good.text
    assert (waited.returncode, waited.stdout) == (1, f"{good.text}\n")
    assert f"✗ {bad.id}: " in waited.stderr
    assert (late.returncode, "is still running" in late.stderr) == (1, True)
    assert cancelled.stdout.splitlines() == [f"{slow.id} cancelled", f"{good.id} succeeded"]
    assert "✗ job_no: " in cancelled.stderr
    assert [json.loads(line)["type"] for line in events.stdout.splitlines()][-1] == "job.succeeded"


async def test_status_shows_all_in_one_view(url: str, worker: Worker) -> None:
    await until(lambda: _ready(url))

    shown, told = await run("status", "--url", url), await run("status", "--json", "--url", f"{url}/v1")
    away = await run("status", "--url", "127.0.0.1:9")

    assert shown.returncode == 0
    assert [line.split()[0] for line in shown.stdout.splitlines()] == ["gateway", "models", "queue", "ended", "worker"]
    assert "ready" in shown.stdout
    assert "double 1" in shown.stdout
    facts = json.loads(told.stdout)
    assert facts["ready"]
    assert facts["workers"][0]["places"] > 0
    assert (away.returncode, away.stderr.count("\n")) == (1, 1)
    assert "no service answers" in away.stderr


async def test_status_says_that_no_worker_is_there(url: str) -> None:
    shown = await run("status", "--url", url)

    assert shown.returncode == 1
    assert "✗ no worker is ready" in shown.stdout
    assert "workers  none" in shown.stdout


async def test_a_group_is_listed_retried_and_cancelled_whole(url: str, worker: Worker) -> None:
    async with AsyncClient(url) as client:
        bad = [await (await client.submit(JOB | {"prompt": "!long", "group": "夏天"})).wait() for _ in range(2)]
        other = await (await client.submit(JOB | {"prompt": "!long"})).wait()

        unsure = await run("jobs", "retry", "--group", "夏天", "--url", url)
        retried = await run("jobs", "retry", "--group", "夏天", "--yes", "--url", url)
        one = await run("jobs", "retry", other.id, "--url", url)
        listed = await run("jobs", "list", "--group", "夏天", "--url", url)
        for _ in range(3):
            await client.submit(JOB | {"prompt": "!slow 600", "group": "夏天"})
        cancelled = await run("jobs", "cancel", "--group", "夏天", "--yes", "--url", url)
        bare = await run("jobs", "cancel", "--url", url)

    assert (unsure.returncode, unsure.stdout.strip()) == (1, "")
    assert "retry 2 jobs?" in unsure.stderr
    assert retried.stdout == "2 of 2\n"
    assert one.stdout.startswith("job_")
    assert len(listed.stdout.splitlines()) == 2 + len(bad)
    assert cancelled.stdout == "3 of 3\n"
    assert (bare.returncode, "--group" in bare.stderr) == (2, True)


async def test_listen_passes_on_the_ends_of_jobs_signed_and_without_set_up(url: str, worker: Worker, site: Site) -> None:
    from standardwebhooks import Webhook

    command = [sys.executable, "-m", "sightline.cli", "listen", "--forward-to", f"{site.url}/hook", "--url", url]
    with subprocess.Popen(  # noqa: ASYNC220
        [*command, "--secret", WEBHOOK_SECRET], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        assert process.stdout
        assert "posting to" in await asyncio.to_thread(process.stderr.readline)
        async with AsyncClient(url) as client:
            await asyncio.sleep(0.5)  # until its stream is open
            job = await (await client.submit(JOB)).wait()
        line = await asyncio.to_thread(process.stdout.readline)
        process.send_signal(signal.SIGINT)
        await asyncio.to_thread(process.communicate, timeout=30)

    assert line == f"job.succeeded {job.id} 200 {job.text}\n"
    (posted,) = site.asked
    event = Webhook(WEBHOOK_SECRET).verify(posted.body, posted.headers)
    assert event["data"]["output"]["text"] == job.text


async def test_models_are_listed_and_removed(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "Qwen__Small"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"x" * 1000)
    about = {"name": "Qwen/Small", "source": "modelscope", "revision": "abc", "complete": True}
    (folder / "sightline.json").write_text(json.dumps(about))
    (tmp_path / "models" / "not ours").mkdir()
    own = {"SIGHTLINE_MODELS_DIR": str(tmp_path / "models")}

    listed = await run("models", "list", **own)
    none = await run("models", "list", SIGHTLINE_MODELS_DIR=str(tmp_path / "none"))
    outside = await run("models", "rm", "../models", **own)
    unknown = await run("models", "rm", "not/ours", **own)
    removed = await run("models", "rm", "Qwen/Small", **own)

    assert (none.stdout, none.stderr.startswith("no weights are here yet")) == ("", True)
    assert listed.stdout == "Qwen/Small  0.0 GB  modelscope  abc\n"
    assert (outside.returncode, unknown.returncode, removed.returncode) == (1, 1, 0)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["not ours"]


def test_ctrl_c_says_nothing_while_it_still_loads() -> None:
    command = [sys.executable, "-v", "-m", "sightline", "status"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        next(line for line in process.stderr if line.startswith("import 'httpx."))
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == 130


@pytest.mark.parametrize("flag", ["--version", "-h", "--help", "--show-completion"])
async def test_what_people_try_first(flag: str) -> None:
    done = await run(flag, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")

    if flag == "--show-completion":
        assert "Traceback" not in done.stderr
        return
    assert done.returncode == 0
    assert (done.stdout == f"sightline {__version__}\n") == (flag == "--version")


def test_the_version_is_the_same_in_all_its_places() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__ == VERSION


async def _ready(url: str) -> bool:
    async with AsyncClient(url) as client:
        return any(worker["phase"] == "ready" for worker in (await client.request("GET", "/v1/workers"))["data"])
