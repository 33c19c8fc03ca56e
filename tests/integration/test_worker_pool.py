"""`sightline worker --gpus all`: real workers on the double, and a script in the place of nvidia-smi."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis.asyncio import Redis

from shared.settings import ROOT, Settings
from shared.store.workers import WorkerRegistry
from sightline.worker_pool import WorkerPool, WorkerPoolFailed, make_pool
from tests.integration.conftest import until

N_GPUS = 2


@pytest.fixture
def environment(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Give this machine two GPUs, and the workers their settings."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\n" + "".join(f"echo '{n}, GPU-{n}'\n" for n in range(N_GPUS)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    own = {
        "SIGHTLINE_REDIS_URL": settings.redis_url,
        "SIGHTLINE_BLOBS_URL": settings.blobs_url,
        "SIGHTLINE_ENGINE": settings.engine,
        "SIGHTLINE_CLAIM_GPUS": "true",
        "SIGHTLINE_GPU_LOCKS_DIR": str(tmp_path / "locks"),
        "SIGHTLINE_DRAIN_S": "2",
        "SIGHTLINE_LEASE_S": "2",
    }
    return {**os.environ, **own}


@pytest.fixture
async def pool(environment: dict[str, str], tmp_path: Path) -> AsyncIterator[subprocess.Popen[bytes]]:
    async with started(environment, tmp_path, "worker", "--gpus", "all") as process:
        yield process


@asynccontextmanager
async def started(environment: dict[str, str], tmp_path: Path, *args: str) -> AsyncIterator[subprocess.Popen[bytes]]:
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-m", "sightline.cli", *args]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)  # noqa: ASYNC220
    yield process
    process.kill()  # its workers get SIGTERM from the kernel then
    await asyncio.to_thread(process.wait)


async def on_gpus(redis: Redis, *, without: str = "") -> dict[int, dict[str, Any]]:
    """Wait until a worker is ready on each GPU, none of them the given one."""

    async def are_ready() -> dict[int, dict[str, Any]] | None:
        workers = [
            worker
            for worker in await WorkerRegistry(redis).workers()
            if worker["phase"] == "ready" and worker["name"] != without
        ]
        found = {worker["gpus"][0]["index"]: worker for worker in workers if worker["gpus"]}
        return found if len(found) == N_GPUS else None

    found: dict[int, dict[str, Any]] = await until(are_ready, timeout_s=60)
    return found


def pid_of(worker: dict[str, Any]) -> int:
    return int(worker["name"].split(":")[1].split("-")[0])


async def test_each_gpu_has_a_worker_that_is_replaced_when_it_dies_and_drained_at_the_end(
    pool: subprocess.Popen[bytes], redis: Redis, tmp_path: Path
) -> None:
    before = await on_gpus(redis)
    assert before[1]["gpus"] == [{"index": 1, "uuid": "GPU-1"}]

    os.kill(pid_of(before[1]), signal.SIGKILL)
    after = await on_gpus(redis, without=before[1]["name"])

    assert pid_of(after[0]) == pid_of(before[0])  # left alone
    assert pid_of(after[1]) != pid_of(before[1])
    workers = [psutil.Process(pid_of(worker)) for worker in after.values()]
    pool.terminate()
    assert await asyncio.to_thread(pool.wait, 30) == 0
    assert not any(worker.is_running() for worker in workers)
    log = (tmp_path / "log").read_text()
    assert '"exit_code": -9, "again_in_s": 1.0' in log
    assert log.count("gpu.claimed") == N_GPUS + 1
    assert log.count("worker.died") == 1


async def test_up_has_a_worker_on_each_gpu_too(environment: dict[str, str], redis: Redis, tmp_path: Path) -> None:
    async with started(environment, tmp_path, "up", "--gpus", "all", "--port", "0", "--state", str(tmp_path / "state")) as up:
        workers = [psutil.Process(pid_of(worker)) for worker in (await on_gpus(redis)).values()]
        up.terminate()
        assert await asyncio.to_thread(up.wait, 30) == 0
        assert not any(worker.is_running() for worker in workers)


@pytest.fixture
def quick_crew() -> Iterator[Callable[[str], WorkerPool]]:
    """Run a script in the place of a worker, with a short first pause."""
    crews = list[WorkerPool]()

    def make(script: str) -> WorkerPool:
        crews.append(
            WorkerPool(
                1, dict(os.environ), Settings(redis_url="redis://127.0.0.1:1", drain_s=1.0), command=("/bin/sh", "-c", script)
            )
        )
        crews[-1].members[0].pause_s = 0.05
        return crews[-1]

    yield make
    for pool in crews:
        pool.stop()


async def test_the_pause_grows_and_what_a_worker_left_behind_is_killed(
    quick_crew: Callable[[str], WorkerPool], tmp_path: Path
) -> None:
    pool = quick_crew(f"sleep 300 & echo $! >>{tmp_path}/left; exit 3")
    member = pool.members[0]
    for n in range(3):
        async with asyncio.timeout(20):
            while member.pause_s < 0.05 * 2 ** (n + 1):
                pool._look(member, asyncio.get_running_loop().time())
                await asyncio.sleep(0.01)

    left = [int(line) for line in (tmp_path / "left").read_text().split()]
    assert len(left) == 3

    async def are_gone() -> bool:
        return not any(is_alive(pid) for pid in left)

    await until(are_gone)


def is_alive(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.parametrize(
    ("gpus", "given", "count", "visible"),
    [
        (None, {}, 1, None),
        ("all", {}, 2, "0,1"),
        ("1", {}, 1, "1"),
        ("GPU-1,0", {}, 2, "1,0"),
        ("all", {"tensor_parallel_size": 2}, 1, "0,1"),
    ],
)
def test_a_worker_for_each_engine_that_fits(
    gpus: str | None, given: dict[str, int], count: int, visible: str | None, environment: dict[str, str], settings: Settings
) -> None:
    pool = make_pool(gpus, settings.model_copy(update=given))
    assert (pool.count, pool.environment.get("CUDA_VISIBLE_DEVICES")) == (count, visible)


@pytest.mark.parametrize(
    ("gpus", "given", "hidden", "said"),
    [
        ("0,2", {}, None, "here are 0 (GPU-0), 1 (GPU-1)"),
        ("1", {}, "0", "here are 0 (GPU-0)"),  # what CUDA_VISIBLE_DEVICES hides stays hidden
        ("all", {}, "", "no GPU was found"),
        ("all", {"tensor_parallel_size": 4}, None, "takes 4 GPUs"),
    ],
)
def test_gpus_that_are_not_there_are_told(
    gpus: str,
    given: dict[str, int],
    hidden: str | None,
    said: str,
    environment: dict[str, str],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    with pytest.raises(WorkerPoolFailed) as failed:
        make_pool(gpus, settings.model_copy(update=given))
    assert said in str(failed.value)
