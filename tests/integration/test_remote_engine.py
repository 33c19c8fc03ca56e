"""An engine in a process of its own is the same engine, and its process never outlives the worker's."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from shared.errors import EngineFailed, PromptTooLong
from shared.sampling_params import Sampling
from shared.settings import ROOT, Settings
from tests.conftest import make_settings
from tests.double import DoubleEngine
from worker.engines import create_engine
from worker.engines.base import EngineDead, EngineUnavailable, Front
from worker.engines.remote import RemoteEngine
from worker.media.loader import media_part
from worker.media.pictures import Pixels

PLACE = "tests.integration.test_remote_engine:ApartDouble"


class ApartDouble(DoubleEngine):
    """The double in a process of its own, which has a child, as vLLM's has."""

    def __init__(self, settings: Settings, front: Front | None = None) -> None:
        super().__init__(settings)
        if front is None or front.index == 0:
            self._child = subprocess.Popen(["sleep", "600"])

    @staticmethod
    def fronts(settings: Settings) -> int:
        return settings.engine_fronts or 1


class HopelessDouble(ApartDouble):
    """Cannot be loaded."""

    async def start(self) -> None:
        msg = "there are no weights; fetch them"
        raise EngineUnavailable(msg)


class ExitingDouble(ApartDouble):
    """Dies while it is loaded."""

    async def start(self) -> None:
        os._exit(3)


def conversation(prompt: str, colour: str = "#1e3cdc") -> list[dict[str, Any]]:
    picture = Pixels(56, 28, bytes.fromhex(colour[1:]) * 56 * 28)
    return [{"role": "user", "content": [media_part(picture), {"type": "text", "text": prompt}]}]


async def until(true: Callable[[], object], within_s: float = 30) -> None:
    async with asyncio.timeout(within_s):
        while not true():  # noqa: ASYNC110  # it is another process's state
            await asyncio.sleep(0.02)


async def wait_running(engine: RemoteEngine, count: int) -> None:
    await until(lambda: sum(front.health.running for front in engine._fronts) == count)


def processes(engine: RemoteEngine) -> list[psutil.Process]:
    roots = [psutil.Process(front.popen.pid) for front in engine._fronts if front.popen]
    return [process for root in roots for process in (root, *root.children(recursive=True))]


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.fixture
async def engine() -> AsyncIterator[RemoteEngine]:
    made = create_engine(make_settings(engine=PLACE, max_num_seqs=2))
    assert isinstance(made, RemoteEngine)
    await made.start()
    yield made
    await made.close()


async def test_it_answers_as_the_engine_itself_does(engine: RemoteEngine) -> None:
    own = DoubleEngine(make_settings())
    pieces = list[str]()
    for colour in ("#1e3cdc", "#dc1e1e"):
        asked = conversation("描述这张图", colour)
        there = await engine.generate(asked, Sampling(), request_id=f"job-{colour}", on_text=pieces.append)
        here = await own.generate(asked, Sampling(), request_id="job-1")
        assert there == here
        assert "".join(pieces) == there.output.text
        pieces.clear()
    assert (engine.info, engine.limits) == (own.info, own.limits)


async def test_errors_keep_their_kind(engine: RemoteEngine) -> None:
    for order, kind in (("!fail", EngineFailed), ("!long", PromptTooLong), ("!crash", EngineFailed)):
        with pytest.raises(kind):
            await engine.generate(conversation(order), Sampling(), request_id="job-1")
    assert (await engine.health()).alive


async def test_a_request_that_is_cancelled_or_aborted_frees_its_slot(engine: RemoteEngine) -> None:
    asked = conversation("!slow 600 one two three four")
    cancelled, aborted = (
        asyncio.create_task(engine.generate(asked, Sampling(), request_id=f"{name}-1")) for name in ("cancelled", "aborted")
    )
    await wait_running(engine, 2)
    cancelled.cancel()
    await engine.abort("aborted-1")
    assert (await aborted).output.finish_reason == "cancelled"
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    await wait_running(engine, 0)


async def test_a_killed_process_ends_every_request(engine: RemoteEngine) -> None:
    asked = conversation("!slow 600")
    tasks = [asyncio.create_task(engine.generate(asked, Sampling(), request_id=f"job{n}-1")) for n in range(3)]
    await wait_running(engine, 2)
    own, child = processes(engine)
    own.kill()
    for task in tasks:
        with pytest.raises(EngineDead):
            await task
    assert not (await engine.health()).alive
    with pytest.raises(EngineDead):
        await engine.generate(asked, Sampling(), request_id="job4-1")
    await engine.close()
    await until(lambda: is_gone(child))


async def test_a_dead_engine_is_known_as_dead_when_its_request_hears_of_it(engine: RemoteEngine) -> None:
    with pytest.raises(EngineDead):
        await engine.generate(conversation("!kill"), Sampling(), request_id="job-1")
    assert not (await engine.health()).alive


async def test_requests_are_spread_over_fronts_and_end_with_any_of_them() -> None:
    engine = create_engine(make_settings(engine=PLACE, max_num_seqs=4, engine_fronts=3))
    assert isinstance(engine, RemoteEngine)
    await engine.start()
    asked = conversation("!slow 600")
    tasks = [asyncio.create_task(engine.generate(asked, Sampling(), request_id=f"job{n}-1")) for n in range(6)]
    await wait_running(engine, 6)
    assert [len(front.requests) for front in engine._fronts] == [2, 2, 2]
    *_, last = left = processes(engine)
    last.kill()
    for task in tasks:
        with pytest.raises(EngineDead):
            await asyncio.wait_for(task, 60)
    await asyncio.sleep(0.5)  # the others still say that they live
    assert not (await engine.health()).alive
    await engine.close()
    await until(lambda: all(is_gone(process) for process in left))


async def test_a_process_that_is_held_up_counts_as_stuck(engine: RemoteEngine) -> None:
    task = asyncio.create_task(engine.generate(conversation("!slow 600"), Sampling(), request_id="job-1"))
    await wait_running(engine, 1)
    processes(engine)[0].send_signal(signal.SIGSTOP)
    async with asyncio.timeout(30):
        while (await engine.health()).stalled_s <= 0.5:  # noqa: ASYNC110  # it is another process's state
            await asyncio.sleep(0.02)
    task.cancel()
    processes(engine)[0].send_signal(signal.SIGCONT)
    await wait_running(engine, 0)
    async with asyncio.timeout(30):
        while (await engine.health()).stalled_s >= 0.5:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_an_engine_that_cannot_be_loaded_says_why() -> None:
    for kind, message in (("HopelessDouble", "there are no weights; fetch them"), ("ExitingDouble", "exit code 3")):
        engine = create_engine(make_settings(engine=PLACE.replace("ApartDouble", kind)))
        with pytest.raises(EngineUnavailable, match=message):
            await engine.start()
        await engine.close()


async def test_nothing_is_left_of_it_when_the_worker_is_killed() -> None:
    code = f"""
import asyncio
from tests.conftest import make_settings
from worker.engines import create_engine
async def main():
    engine = create_engine(make_settings(engine="{PLACE}"))
    await engine.start()
    print(engine._fronts[0].popen.pid, engine.folder, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) as worker:  # noqa: ASYNC220  # a moment
        assert worker.stdout is not None
        pid, folder = (await asyncio.to_thread(worker.stdout.readline)).decode().split()
        host = psutil.Process(int(pid))
        left = [host, *host.children()]
        assert len(left) == 2
        worker.kill()
    await until(lambda: all(is_gone(process) for process in left))
    assert not Path(folder).exists()  # noqa: ASYNC240  # once
