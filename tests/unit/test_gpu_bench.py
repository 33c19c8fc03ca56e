"""The parts of ``bench.gpu`` that need no GPU: what is read, what is ended, what is loaded beside each other."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bench.gpu import unloaded
from bench.gpu.__main__ import Bench, read_cases
from bench.gpu.cases import Case
from bench.gpu.meter import mean_percent
from bench.gpu.profile import gaps
from bench.gpu.starts import phases
from bench.gpu.tune import groups, parse
from bench.gpu.ways import Ran, kill, spawn
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


def test_cases_are_read_in_their_order_with_a_share_of_their_jobs_and_some_ways() -> None:
    read = read_cases("mix-128*0.25,448-128,2048-128*0.5:serve+sightline")

    assert [(case.name, case.count, ways) for case, ways in read] == [
        ("mix-128", 384, set()),
        ("448-128", 1536, set()),
        ("2048-128", 768, {"serve", "sightline"}),
    ]


def test_the_phases_of_a_start_are_read_from_the_logs_of_vllm_and_of_ours() -> None:
    log = (
        "(EngineCore pid=7) INFO 11-28 03:00:00 [model_runner.py:425] Model loading took 7.16 GiB memory and 4.025000 seconds\n"
        "(EngineCore pid=7) INFO 11-28 03:00:09 [monitor.py:60] [encoder] torch.compile took 10.25 s in total\n"
        "(EngineCore pid=7) INFO 11-28 03:00:20 [monitor.py:60] torch.compile took 20.25 s in total\n"
        "(EngineCore pid=7) INFO 11-28 03:00:30 [model_runner.py:1128] Graph capturing finished in 8 secs, took 0.60 GiB\n"
        "(EngineCore pid=7) INFO 11-28 03:00:31 [core.py:395] init engine (profile, create cache) took 45.10 s\n"
        '{"seconds": 71.3, "name": "vllm", "event": "engine.ready", "level": "info"}\n'
    )

    assert phases(log) == {"weights": 4.0, "compile": 30.5, "graphs": 8, "engine's own": 45.1, "engine": 71.3}
    assert phases("") == {}


def test_what_a_service_adds_is_told_pair_by_pair(tmp_path: Path) -> None:
    asked: list[tuple[str, Path]] = []

    def way(name: str, seconds: float) -> unloaded.Ask:
        def ask(case: Case, files: list[Path]) -> Ran:
            asked.append((name, files[0]))
            own = seconds + (1.0 if name == "sightline" and files[0].stem == "7" else 0.0)
            return Ran([(10.0, 10.0 + own, case.tokens)], stages_ms={"decode": 1000 * own})

        return ask

    direct, service = unloaded.measure(
        (28, 28), {"direct": way("direct", 0.1), "sightline": way("sightline", 0.12)}, tmp_path, 20
    )

    assert [name for name, _ in asked] == ["direct", "sightline"] * 25  # five of each do not count
    assert [file for _, file in asked[::2]] == [file for _, file in asked[1::2]]
    assert len({file for _, file in asked}) == 25
    assert "added_ms" not in direct
    assert service["added_ms"] == {"p50": 20.0, "p95": 1020.0, "p99": 1020.0}
    assert (service["slowest"][0]["n"], service["slowest"][0]["added"], service["slowest"][0]["decode"]) == (2, 1020, 1120)
    assert len(service["all_added_ms"]) == 20
    assert service["short"] == 0


def test_idle_time_is_told_by_what_the_process_did_in_the_middle_of_it() -> None:
    kernels = [{"ts": ts, "dur": dur} for ts, dur in ((0, 10), (200, 10), (215, 5))]
    scope = {"ts": 0, "dur": 300, "cat": "user_annotation", "name": "preprocess", "tid": 1}
    call = {"ts": 90, "dur": 50, "cat": "cpu_op", "name": "aten::cat", "tid": 1}
    elsewhere = {"ts": 100, "dur": 10, "cat": "cpu_op", "name": "aten::add", "tid": 2}

    in_calls, in_scopes = gaps(kernels, [scope, call, elsewhere])

    assert (dict(in_calls), dict(in_scopes)) == ({"aten::cat": 190}, {"preprocess": 190})
