"""The decoding children: whatever ends or stops one of them, the others' files do not wait, and each gets its own answer."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from shared.blobs import Blobs
from shared.errors import MediaTooLarge, MediaUnreadable, ResourceExhausted
from shared.messages import ImagePart
from shared.settings import Settings
from tests.double import DoubleEngine, mean_colour
from tests.media import BLUE, GREEN, RED, picture
from worker.media.decoders import Crashed, Decoders, Killed
from worker.media.loader import MediaLoader

MEMORY_BYTES = 2**28
PART = ImagePart(type="image", image="file-1")


@pytest.fixture
async def decoders() -> AsyncIterator[Decoders]:
    decoders = Decoders(2)
    yield decoders
    decoders.close()


@pytest.fixture
async def loader(settings: Settings, blobs: Blobs) -> AsyncIterator[MediaLoader]:
    two = settings.model_copy(update={"decode_processes": 2})
    async with MediaLoader(two, blobs, DoubleEngine(settings).limits) as loader:
        yield loader


async def run(decoders: Decoders, function: Callable[..., object], *args: object, wall_s: float = 20) -> object:
    return await decoders.run(wall_s, MEMORY_BYTES, 20, function, *args)


def nursery() -> psutil.Process:
    """Give the process that the decoders come from."""
    return next(child for child in psutil.Process().children() if "worker.media.nursery" in child.cmdline())


def children_of(pid: int) -> Callable[[], list[str]]:
    """Give what lists a process's children; psutil looks at every process for it."""
    return lambda: Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


async def test_children_killed_at_any_moment_hold_up_no_picture(loader: MediaLoader) -> None:
    """A lock or a pipe that they shared would sooner or later be left behind by one of them."""
    colours = {"#dc1e1e": RED, "#1ec83c": GREEN, "#1e3cdc": BLUE}
    files = {name: picture(colour, (600, 600)) for name, colour in colours.items()}
    kills, answers, again, longest_s = 0, 0, 0, 0.0
    answered = asyncio.Event()
    rng, born = random.Random(1), children_of(nursery().pid)

    async def send() -> None:
        nonlocal answers, again, longest_s
        while kills < 200:
            name, began = rng.choice(list(files)), time.monotonic()
            try:
                part = await loader._decode(PART, files[name])
            except ResourceExhausted:  # its job is tried again
                again += 1
            else:
                answers += 1
                answered.set()
                assert mean_colour(part["image"]) == name
            longest_s = max(longest_s, time.monotonic() - began)

    async def kill() -> None:
        nonlocal kills
        while kills < 200:
            await answered.wait()  # however slow the machine is
            answered.clear()
            await asyncio.sleep(rng.uniform(0, 0.03))
            if found := born():
                with suppress(ProcessLookupError):
                    os.kill(int(rng.choice(found)), signal.SIGKILL)
                    kills += 1

    async with asyncio.timeout(100):
        await asyncio.gather(kill(), *(send() for _ in range(4)))

    assert again < answers / 4
    assert longest_s < 15


async def test_a_nursery_that_is_killed_is_replaced(loader: MediaLoader) -> None:
    for _ in range(3):
        child = await loader._in_child(MEMORY_BYTES, os.getpid)
        nursery().kill()
        assert await loader._in_child(MEMORY_BYTES, os.getpid) == child  # it goes on
        os.kill(child, signal.SIGKILL)

        async with asyncio.timeout(20):
            assert mean_colour((await loader._decode(PART, picture(RED)))["image"]) == "#dc1e1e"


async def test_a_nursery_that_is_stopped_is_replaced(decoders: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    child = await run(decoders, os.getpid)  # it is there
    stopped = nursery()
    stopped.suspend()
    os.kill(child, signal.SIGKILL)  # type: ignore[arg-type]
    with monkeypatch.context() as quick:
        quick.setattr("worker.media.decoders.START_S", 0.3)
        quick.setattr("worker.media.decoders.STATUS_S", 0.1)
        for _ in range(2):  # the one that died, and the one that is not born
            with pytest.raises(Killed):
                await run(decoders, len, "")

    assert await run(decoders, len, "") == 0
    assert nursery() != stopped


async def test_a_child_that_is_stopped_is_no_fault_of_its_file(decoders: Decoders) -> None:
    os.kill(await run(decoders, os.getpid), signal.SIGSTOP)  # type: ignore[arg-type]

    with pytest.raises(Killed):
        await run(decoders, len, "", wall_s=0.3)
    assert await run(decoders, len, "") == 0


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (signal.SIGKILL, Killed),
        (signal.SIGTERM, Killed),
        (signal.SIGXCPU, TimeoutError),
        *[(number, Crashed) for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)],
    ],
)
async def test_how_a_child_ends_says_whose_fault_it_is(number: int, error: type[Exception], decoders: Decoders) -> None:
    with pytest.raises(error):
        await run(decoders, signal.raise_signal, number)


async def test_a_picture_whose_decoders_are_killed_is_not_called_bad(loader: MediaLoader) -> None:
    for number, error in (
        (signal.SIGKILL, ResourceExhausted),
        (signal.SIGSEGV, MediaUnreadable),
        (signal.SIGXCPU, MediaTooLarge),
    ):
        with pytest.raises(error):
            await loader._in_child(MEMORY_BYTES, signal.raise_signal, number)


async def test_a_child_that_was_talked_over_can_answer_with_nothing_but_plain_things(decoders: Decoders) -> None:
    for said in (os.system, eval, type):
        with pytest.raises(pickle.UnpicklingError, match="does not answer"):
            await run(decoders, copy.copy, said)
    with pytest.raises(FileNotFoundError):
        await run(decoders, os.stat, "/nowhere")


async def test_children_and_sockets_are_given_back(decoders: Decoders) -> None:
    await run(decoders, len, "")
    before = psutil.Process().num_fds()
    for _ in range(5):
        with pytest.raises(Killed):
            await run(decoders, signal.raise_signal, signal.SIGKILL)
    await run(decoders, len, "")
    assert psutil.Process().num_fds() <= before

    decoders.close()
    async with asyncio.timeout(20):
        while nursery().children():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
