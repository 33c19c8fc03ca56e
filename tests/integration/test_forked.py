"""What tests fork in place of a start is what users start: its output, code, signals, variables, session and parent."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from shared.settings import Settings
from tests.forked import ForkServer, forking
from tests.integration.parts import part_of

#: Started as they are written here, and forked, in the same words.
COMMANDS = [
    ["sightline.cli", "--version"],
    ["sightline.cli", "status", "--url", "http://127.0.0.1:9"],
    ["sightline.cli", "no-such-command"],
    ["worker.main", "no-such-part"],
    ["api.main"],
]
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")
WRONG = {"SIGHTLINE_PORT": "many", "SIGHTLINE_LOG_JSON": "false"}  # which a part says, and ends


@pytest.mark.own_python
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_fork_says_and_ends_as_a_start(command: list[str], fork_server: ForkServer, tmp_path: Path) -> None:
    def run() -> tuple[int, str, str]:
        whole, env = [sys.executable, "-m", *command], os.environ | WRONG
        done = subprocess.run(whole, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, INSTANT.sub("", done.stderr)

    started = run()
    with forking(fork_server):
        forked = run()

    assert forked == started


def test_a_fork_is_a_child_in_its_own_place(settings: Settings, tmp_path: Path) -> None:
    with part_of("gateway", settings, tmp_path) as part:
        process = psutil.Process(part.process.pid)
        assert (process.ppid(), process.cwd()) == (os.getpid(), str(Path.cwd()))
        assert "tests.forked" in process.cmdline()
        part.process.send_signal(signal.SIGKILL)
        assert part.process.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize("variable", ["PYTHONUTF8", "OTEL_SERVICE_NAME", "HTTPS_PROXY"])
def test_more_than_settings_is_started(
    variable: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    with part_of("webhooks", settings, tmp_path) as part:
        process = psutil.Process(part.process.pid)
        while not (command := process.cmdline()):  # one that has just been started has none for an instant
            time.sleep(0.01)
        assert command[1:] == ["-m", "worker.main", "webhooks"]
