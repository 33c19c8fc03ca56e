"""One `up` at a time has a state folder, and kill -9 leaves none locked."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from shared.settings import ROOT
from sightline import state
from sightline.ports import free_port, listens, why_not

#: Takes the folder, starts a child that keeps the lock, and waits.
HOLDER = """
import subprocess, sys, time
from pathlib import Path
from sightline import state
lock = state.take(Path(sys.argv[1]))
state.write_note(lock, {"url": "http://127.0.0.1:1", "redis_url": "redis://127.0.0.1:2"})
child = subprocess.Popen(["sleep", sys.argv[2]], pass_fds=[lock])
print("taken", flush=True)
time.sleep(60)
"""


def holder(folder: Path, child_s: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(folder), child_s]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "taken\n"
    process.stdout.close()
    return process


def test_the_second_is_told_who_has_it(tmp_path: Path) -> None:
    process = holder(tmp_path, "0")
    try:
        assert state.running_up(tmp_path) == {
            "pid": process.pid,
            "url": "http://127.0.0.1:1",
            "redis_url": "redis://127.0.0.1:2",
        }
        with pytest.raises(state.StateHeld, match=f"process {process.pid} at http://127.0.0.1:1"):
            state.take(tmp_path)
    finally:
        process.kill()
        process.wait()


def test_after_kill_9_it_is_free_once_the_parts_have_left(tmp_path: Path) -> None:
    process, told = holder(tmp_path, "0.5"), list[str]()
    process.send_signal(signal.SIGKILL)
    process.wait()

    os.close(state.take(tmp_path, told.append))

    assert f"process {process.pid}" in told[0]
    assert state.running_up(tmp_path) is None


def test_two_that_start_together_are_not_both_let_in(tmp_path: Path) -> None:
    locks, refused = list[int](), list[str]()

    def start() -> None:
        try:
            locks.append(lock := state.take(tmp_path))
            state.write_note(lock, {"url": "http://127.0.0.1:1"})
        except state.StateHeld as error:
            refused.append(str(error))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(locks[0])

    assert (len(locks), len(refused)) == (1, 7)


def test_a_folder_that_nobody_has_used_has_no_up(tmp_path: Path) -> None:
    assert state.running_up(tmp_path / "none") is None


def test_why_a_port_cannot_be_had() -> None:
    assert why_not("127.0.0.1", free_port()) is None
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} is taken" in (why_not("127.0.0.1", port) or "")
        assert f"port {port} is taken" in (why_not("0.0.0.0", port) or "")
        assert listens(os.getpid(), port)
        assert not listens(os.getppid(), port)
    assert not listens(os.getpid(), port)
    for host in ("192.0.2.1", "no.such.host.invalid"):
        assert f"{host} is no address of this machine" in (why_not(host, port) or "")
