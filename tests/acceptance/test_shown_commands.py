"""What the documents show, in both languages, as a reader runs it: commands in a folder of his own, and programs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
import uvicorn

from demo.scenes import scene
from tests.acceptance.conftest import ask_about, until
from tests.documents import ROOT, blocks, commands_in, documents, is_run, named
from tests.ports import block_of_ports

pytestmark = pytest.mark.timeout(300)
SEED = 883_000
HERE = ["http://127.0.0.1:8000", "http://localhost:8000"]
PICTURE = "https://example.com/cat.jpg"
#: How long whoever runs the commands of one document has to have patience.
PATIENCE_S = 240


def shell_of(document: Path) -> list[str]:
    """Give the commands of a document that are run; each block's are joined, since one needs what another found."""
    kept = ["\n".join(filter(is_run, commands_in(block))) for block in blocks(document, "sh")]
    return [block for block in kept if block]


WITH_SHELL = [document for document in documents() if shell_of(document)]
WITH_PROGRAMS = [document for document in documents() if blocks(document, "python")]


@pytest.fixture
def reader(stack, web_folder):
    """A reader's folder with the pictures that the documents name, his variables, and how he writes the service's address."""
    folder, site = web_folder
    for n, name in enumerate(("cat.jpg", "holiday/a.png", "假期/a.png", "photos/a/b.png", "照片/a.png", "dataset/a.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(scene(SEED + n).png())
    (folder / "examples").symlink_to(ROOT / "examples")
    programs = folder / "bin"
    programs.mkdir()
    for name, module in {"sightline": "-m sightline.cli", "python": ""}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
        (programs / name).chmod(0o755)
    own = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SIGHTLINE_URL": stack.url,
        "OPENAI_BASE_URL": f"{stack.url}/v1",
        "OPENAI_API_KEY": "EMPTY",
    }
    changed = dict.fromkeys(HERE, stack.url) | {PICTURE: f"{site}/cat.jpg"}

    def run(*command, text):
        for written, real in changed.items():
            text = text.replace(written, real)
        done = subprocess.run(
            [*command, text], cwd=folder, env=os.environ | own, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr[-2000:]}"
        return done.stdout

    return folder, run


@pytest.mark.skipif(not shutil.which("jq"), reason="a command in the documents needs jq")
@pytest.mark.parametrize("document", WITH_SHELL, ids=named)
def test_commands(document, reader):
    folder, run = reader
    before = {path for path in folder.rglob("*") if path.is_file()}

    said = [run("bash", "-euo", "pipefail", "-c", text=block) for block in shell_of(document)]

    outputs = set(re.findall(r"-o (\S+)", " ".join(shell_of(document))))
    made = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path not in before}
    assert outputs <= made
    if "--sidecar" in " ".join(shell_of(document)):
        assert any(name.endswith("a.txt") for name in made)
    asked = [shown for shown, block in zip(said, shell_of(document), strict=True) if "curl" in block or "python" in block]
    assert all(map(tells_what_is_there, asked)), asked


@pytest.mark.parametrize("document", WITH_PROGRAMS, ids=named)
def test_programs(document, reader, client, stack, monkeypatch):
    folder, run = reader
    (folder / "holiday/b.jpg").write_bytes((folder / "cat.jpg").read_bytes())
    (folder / "假期/b.jpg").write_bytes((folder / "cat.jpg").read_bytes())

    for program in blocks(document, "python"):
        if "FastAPI" in program:
            assert_it_receives(program, client, stack, monkeypatch)
        else:
            assert tells_what_is_there(run(sys.executable, "-c", text=program))


def tells_what_is_there(shown):
    """In the language of the prompt that the document shows, whichever that is."""
    return any(scene(SEED).caption(language) in shown for language in ("zh", "en"))


def assert_it_receives(program, client, stack, monkeypatch):
    """Serve a receiver, and have it told of a job; what is not signed is not taken."""
    monkeypatch.setenv("SIGHTLINE_WEBHOOK_SECRET", stack.secret)
    told, port = [], block_of_ports(1)
    made: dict[str, object] = {"print": lambda *words: told.append(words)}
    exec(program, made)  # ours
    server = uvicorn.Server(uvicorn.Config(made["app"], port=port, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started, within_s=20)
        assert httpx.post(f"http://127.0.0.1:{port}/hook", json={}).status_code == 500
        job = client.submit(ask_about(SEED, webhook={"url": f"http://127.0.0.1:{port}/hook"}))
        until(lambda: bool(told), within_s=60)
        assert told == [("job.succeeded", job.id, job.wait().text)]
    finally:
        server.should_exit = True
        thread.join()
