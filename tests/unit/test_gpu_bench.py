"""The parts of ``bench.gpu`` that need no GPU: what is read, what is ended, what is loaded beside each other."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bench.gpu.__main__ import Bench
from bench.gpu.meter import mean_percent
from bench.gpu.tune import groups, parse
from bench.gpu.ways import kill, spawn
from shared.settings import ROOT


def test_the_meter_reads_every_gpu() -> None:
    assert mean_percent("100\n50\n") == 75
    assert mean_percent("7\n") == 7


def has_ended(pid: int) -> bool:
    """Wait until a process is gone, or a zombie that nobody here can reap."""
    until = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


class Part:
    def __init__(self, *, fails: bool) -> None:
        self.fails, self.stopped = fails, False

    def stop(self) -> None:
        self.stopped = True
        if self.fails:
            raise ProcessLookupError


def test_one_way_that_cannot_be_ended_leaves_no_other_behind(capsys: pytest.CaptureFixture[str]) -> None:
    parts = [Part(fails=True), Part(fails=False)]
    bench = Bench.__new__(Bench)
    bench.started = parts  # type: ignore[assignment]

    bench.stop()

    assert [part.stopped for part in parts] == [True, True]
    assert "ProcessLookupError" in capsys.readouterr().err


def test_what_was_spawned_ends_with_all_its_children(tmp_path: Path) -> None:
    code = "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    process = spawn([sys.executable, "-c", code], {}, tmp_path / "log")
    while not (text := (tmp_path / "log").read_text()).endswith("\n"):
        assert process.poll() is None
    kill(process)
    kill(process)  # again, and it is gone
    kill(None)
    assert has_ended(int(text))


def test_the_clients_of_a_benchmark_that_is_killed_end_with_it(tmp_path: Path) -> None:
    script = tmp_path / "benchmark.py"
    script.write_text(
        "import os, sys, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from multiprocessing import get_context\n"
        "from bench.gpu.cases import end_with_parent\n"
        "if __name__ == '__main__':\n"
        "    with ProcessPoolExecutor(1, get_context('forkserver'), end_with_parent) as pool:\n"
        "        print(pool.submit(os.getpid).result(), flush=True)\n"
        "        pool.submit(time.sleep, 60).result()\n"
    )
    process = spawn([sys.executable, str(script)], {"PYTHONPATH": str(ROOT)}, tmp_path / "log")
    while not (text := (tmp_path / "log").read_text()).endswith("\n"):
        assert process.poll() is None
        time.sleep(0.05)

    process.kill()  # it alone, without its group
    process.wait()

    assert has_ended(int(text))


def test_what_was_spawned_ends_with_its_parent_however_that_ends(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = (
        "import os; from pathlib import Path; from bench.gpu.ways import spawn;"
        f"print(spawn(['sleep', '60'], dict(os.environ), Path({str(log)!r})).pid, flush=True); os.kill(os.getpid(), 9)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert ran.returncode == -9
    assert has_ended(int(ran.stdout))


def test_engines_are_loaded_beside_each_other_as_far_as_they_fit() -> None:
    variants = [parse(given) for given in ("a={}", 'twins={"engines": 2, "mps": true}', 'b={"X": 1}', "c={}")]

    assert [[v.name for v in group] for group in groups(variants, 3)] == [["a", "twins"], ["b", "c"]]
    assert variants[1].mps
    assert variants[2].settings == {"X": "1"}
