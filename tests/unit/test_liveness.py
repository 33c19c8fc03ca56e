"""A dead worker is told from one that lives, stands still, or is elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from worker.liveness import Liveness

URL = "redis://:secret@127.0.0.1:6379/0"
HOLD = """
import sys, time
from worker.liveness import Liveness
liveness = Liveness(sys.argv[1], sys.argv[2])
liveness.hold()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@contextmanager
def other_worker(name: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    command, environment = [sys.executable, "-c", HOLD, name, URL], {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_only_a_worker_that_is_gone_counts_as_dead(folder: Path) -> None:
    mine = Liveness("host:1-a", URL)
    mine.hold()
    with other_worker("host:2-b", folder) as other:
        assert mine.dead() == []
        other.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        assert mine.dead() == []
        other.kill()
        other.wait()
        assert mine.dead() == ["host:2-b"]
    mine.bury(["host:2-b"])
    assert mine.dead() == []


def test_two_workers_of_one_process_see_each_other_alive() -> None:
    one, two = Liveness("host:1-a", URL), Liveness("host:1-b", URL)
    one.hold()
    two.hold()
    assert (one.dead(), two.dead()) == ([], [])
    two.release()
    assert one.dead() == []  # who leaves in order is not dead


def test_workers_of_another_redis_are_none_of_ours(folder: Path) -> None:
    with other_worker("host:2-b", folder) as other:
        other.kill()
        other.wait()
        assert Liveness("host:1-a", "redis://127.0.0.1:6379/1").dead() == []
        assert Liveness("host:1-a", "redis://user:other@127.0.0.1:6379/0").dead() == ["host:2-b"]


def test_the_password_of_redis_stands_in_no_name(folder: Path) -> None:
    Liveness("host:1-a", URL).hold()
    assert not [path for path in folder.rglob("*") if "secret" in str(path)]


def test_without_a_place_for_locks_nobody_counts_as_dead(folder: Path) -> None:
    (folder / f"sightline-{os.getuid()}").write_text("in the way")
    liveness = Liveness("host:1-a", URL)
    liveness.hold()
    assert liveness.dead() == []
    liveness.release()


def test_a_lock_whose_file_has_gone_is_taken_again(folder: Path) -> None:
    """The old one is kept, too: its file may come back, and must not say that this worker is dead."""
    mine, other = Liveness("host:1-a", URL), Liveness("host:1-b", URL)
    mine.hold()
    locks = next(path for path in folder.rglob("*") if path.name == "host:1-a").parent
    away = folder / "away"
    locks.rename(away)

    assert mine.dead() == []

    assert (locks / "host:1-a").exists()
    assert other.dead() == []
    (locks / "host:1-a").unlink()
    locks.rmdir()
    away.rename(locks)
    assert other.dead() == []
    mine.release()
    assert list(locks.iterdir()) == []


def test_a_folder_that_takes_no_lock_is_told_of_once_and_tried_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = Liveness("host:1-a", URL)
    place = folder / f"sightline-{os.getuid()}"
    place.write_bytes(b"no folder")
    mine.hold()
    for _ in range(3):
        assert mine.dead() == []
    mine.bury(["host:2-b"])
    assert capsys.readouterr().out.count("liveness.missing") == 1

    place.unlink()
    assert mine.dead() == []

    assert [path.name for path in place.rglob("host:*")] == ["host:1-a"]
    mine.release()
