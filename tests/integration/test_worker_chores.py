"""Nothing that a worker does beside its jobs dies in silence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from shared.aio import Background
from shared.errors import StorageUnavailable
from shared.settings import Settings
from tests.integration.conftest import Worker, gateway_for, until
from worker.runtime import MAX_CRASHES
from worker.webhooks.sender import Sender

Chore = Callable[[], Coroutine[Any, Any, None]]
CHORES = ["_heartbeat", "_beat", "_rescue", "_hear_cancels", "_janitor.purge", "_janitor.sweep"]


def replace(worker: Worker, chore: str, error: BaseException) -> list[str]:
    """Have a chore raise; gives a list that grows with its runs."""
    *way, name = chore.split(".")
    owner: Any = worker.runtime
    for step in way:
        owner = getattr(owner, step)
    runs: list[str] = []

    async def fail() -> None:
        runs.append(name)
        raise error

    fail.__name__ = name
    setattr(owner, name, fail)
    return runs


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"lease_s": 0.1})


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.runtime.PURGE_EVERY_S", 0.02)
    monkeypatch.setattr("worker.runtime.LOOK_FOR_SWEEP_EVERY_S", 0.02)


@pytest.mark.parametrize("chore", [chore for chore in CHORES if chore not in {"_heartbeat", "_hear_cancels"}])
async def test_an_outage_ends_no_chore_and_is_told(chore: str, settings: Settings) -> None:
    worker, name = Worker(settings), chore.rsplit(".", maxsplit=1)[-1].strip("_")
    runs = replace(worker, chore, StorageUnavailable())
    async with worker.running():

        async def often_and_told() -> bool:
            notice = next(iter(await worker.runtime._registry.workers()), {})
            return len(runs) > MAX_CRASHES and name in notice["failing_chores"]

        await until(often_and_told)
        async with gateway_for(settings) as gateway:
            ready = (await gateway.get("/readyz")).json()
        assert [warning for warning in ready["warnings"] if "chores" in warning and name in warning]
        assert worker.runtime.readiness.takes_jobs


@pytest.mark.parametrize("chore", ["_janitor.purge", "_janitor.sweep"])
async def test_housekeeping_that_crashes_is_logged_and_begun_again(
    chore: str, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = Worker(settings)
    runs = replace(worker, chore, ValueError("a fault"))
    async with worker.running():

        async def often() -> bool:
            return len(runs) > 2 * MAX_CRASHES

        await until(often)
        assert worker.runtime.readiness.takes_jobs
    assert "chore.crashed" in capsys.readouterr().out


async def test_a_worker_that_is_there_before_the_folder_fails_no_chore(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all parts start at once the gateway makes the folder a moment later: nothing is wrong."""
    monkeypatch.setattr("worker.runtime.LOOK_FOR_SWEEP_EVERY_S", 60.0)
    worker = Worker(settings.model_copy(update={"blobs_url": str(tmp_path / "not yet there")}))
    async with worker.running():

        async def has_beaten() -> bool:
            return bool(await worker.runtime._redis.zcard("sightline:{sightline}:workers"))

        await until(has_beaten)
        await worker.runtime._heartbeat()
        (notice,) = await worker.runtime._registry.workers()

    assert notice["failing_chores"] == []


@pytest.mark.parametrize("chore", ["_beat", "_rescue"])
async def test_a_worker_that_cannot_keep_its_leases_says_why_and_ends(
    chore: str, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = Worker(settings)
    runs = replace(worker, chore, ValueError("a fault"))

    with pytest.raises(ValueError, match="a fault"):
        await asyncio.wait_for(worker.runtime.serve(), 20)

    assert len(runs) >= MAX_CRASHES  # a rescue begins with a beat
    assert capsys.readouterr().out.count("chore.crashed") >= MAX_CRASHES


async def test_a_chore_that_is_cancelled_ends_the_worker(settings: Settings) -> None:
    """As it is when a call that it waits for is cancelled under it: it would be missed by nobody."""
    worker = Worker(settings)
    replace(worker, "_beat", asyncio.CancelledError())

    with pytest.raises(RuntimeError, match="cancelled"):
        await asyncio.wait_for(worker.runtime.serve(), 20)


async def test_the_sender_goes_on_after_a_fault(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    sender, runs = Sender(settings), 0

    async def fail() -> None:
        nonlocal runs
        runs += 1
        raise ValueError("a fault")

    sender.send_due = fail  # type: ignore[method-assign]
    serving = asyncio.create_task(sender.serve())

    async def twice() -> bool:
        return runs > 1

    await until(twice)
    serving.cancel()
    await asyncio.wait([serving])
    assert "chore.crashed" in capsys.readouterr().out


async def test_what_ends_a_background_task_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    background = Background()

    async def fail() -> None:
        raise ValueError("a fault")

    background.add(fail())
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    told = capsys.readouterr().out
    assert "background.failed" in told
    assert "a fault" in told
