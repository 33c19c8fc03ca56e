"""One bad file costs the others nothing, and says what is the matter with it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from shared.settings import ROOT
from tests.media import picture


@pytest.mark.usefixtures("worker")
async def test_the_example_for_many_pictures_prints_the_others(url: str, tmp_path: Path) -> None:
    names = ["a.png", "broken.png", "missing.png", "b.png"]
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(picture())
    (tmp_path / "broken.png").write_bytes(b"no picture")
    command = [sys.executable, str(ROOT / "examples" / "openai_async.py"), *(str(tmp_path / name) for name in names)]
    environment = os.environ | {"OPENAI_BASE_URL": f"{url}/v1", "PYTHONIOENCODING": "utf-8"}

    done = await asyncio.to_thread(
        lambda: subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    )

    assert [line.partition("\t")[0] for line in done.stdout.splitlines()] == ["a.png", "b.png"]
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["broken.png", "missing.png"]
    assert done.returncode == 1


async def test_an_empty_file_is_called_empty(gateway: httpx.AsyncClient) -> None:
    answer = await gateway.post("/v1/files", files={"file": ("a.png", b"")})

    assert answer.status_code == 415
    assert "is empty" in answer.json()["error"]["message"]


@pytest.mark.parametrize("name", ['say "hi".png', "two\nlines.png", "50%.png", "猫.png"])
async def test_a_files_name_is_kept(gateway: httpx.AsyncClient, name: str) -> None:
    answer = await gateway.post("/v1/files", files={"file": (name, picture())})

    assert answer.json()["filename"] == name
