"""Who gets into memory and engine when, without any clock but our own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from shared.messages import Message, short_form
from worker.admission import Admission, Arrivals, Budget, Memory
from worker.engines.base import PixelLimits
from worker.engines.sizes import pixel_bytes, vision_tokens
from worker.media.frame_sampling import Frames
from worker.media.loader import media_part
from worker.media.pictures import Pixels

STEP = 16_384
SMALL, LARGE = 1280, 12_000  #: a picture, and a clip of 64 frames: two of these are inside beside pictures


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Door:
    """Sends jobs through a door and remembers who is inside."""

    def __init__(self) -> None:
        self.inside = list[str]()
        self._leave = dict[str, asyncio.Event]()
        self.tasks = dict[str, asyncio.Task[None]]()

    async def come(self, name: str, through: AbstractAsyncContextManager[object]) -> None:
        self._leave[name] = asyncio.Event()

        async def job() -> None:
            async with through:
                self.inside.append(name)
                try:
                    await self._leave[name].wait()
                finally:
                    self.inside.remove(name)

        self.tasks[name] = asyncio.create_task(job())
        await settle()

    async def leave(self, name: str) -> None:
        self._leave[name].set()
        await settle()

    async def cancel(self, *names: str) -> None:
        for name in names:
            self.tasks[name].cancel()
        await settle()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    door = Door()
    yield door
    await door.cancel(*door.tasks)
    assert door.inside == []


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(clock: Clock) -> Admission:
    return Admission(STEP, now=clock)


async def test_small_jobs_pass_large_ones_that_wait(door: Door, engine: Admission) -> None:
    await door.come("picture", engine.inside(SMALL))
    for n in range(10):
        await door.come(f"video {n}", engine.inside(LARGE))
    for n in range(300):
        await door.come(f"picture {n}", engine.inside(SMALL))

    assert [name for name in door.inside if name.startswith("video")] == ["video 0", "video 1"]
    assert len(door.inside) == 1 + 2 + 300


async def test_no_large_job_starves_beside_small_ones(door: Door, engine: Admission) -> None:
    await door.come("picture", engine.inside(SMALL))  # one is always there
    for n in range(6):
        await door.come(f"video {n}", engine.inside(3 * STEP if n == 3 else LARGE))  # one is larger than all the room
    order = []
    while videos := [name for name in door.inside if name.startswith("video")]:
        order += videos[:1]
        await door.leave(videos[0])

    assert order == [f"video {n}" for n in range(6)]


async def test_large_jobs_go_by_rank_then_by_arrival(door: Door, engine: Admission) -> None:
    await door.come("picture", engine.inside(SMALL))
    await door.come("first", engine.inside(2 * STEP))
    for name, rank in (("late", 9), ("chat", 1), ("later", 9)):
        await door.come(name, engine.inside(2 * STEP, rank))
    order = []
    for name in ("first", "chat", "late", "later"):
        order += [name for name in door.inside if name != "picture"]
        await door.leave(name)

    assert order == ["first", "chat", "late", "later"]


async def test_where_no_small_jobs_are_large_ones_fill_the_engine(door: Door, engine: Admission, clock: Clock) -> None:
    for n in range(20):
        await door.come(f"video {n}", engine.inside(LARGE))
    assert len(door.inside) == 20

    await door.come("picture", engine.inside(SMALL))
    await door.leave("picture")
    await door.come("another", engine.inside(LARGE))
    assert "another" not in door.inside  # pictures come seldom, but they come
    clock.now_s += 11
    await door.leave("video 0")
    assert "another" in door.inside


async def test_who_gives_up_holds_up_nobody(door: Door, engine: Admission) -> None:
    await door.come("picture", engine.inside(SMALL))
    await door.come("a", engine.inside(LARGE))
    await door.come("b", engine.inside(2 * STEP))
    await door.come("c", engine.inside(LARGE))
    assert door.inside == ["picture", "a"]
    await door.cancel("b")
    assert door.inside == ["picture", "a", "c"]


async def test_who_gives_up_leaves_no_trace(door: Door, engine: Admission) -> None:
    await door.come("picture", engine.inside(SMALL))
    for name in ("a", "b", "c"):
        await door.come(name, engine.inside(2 * STEP))
    await door.cancel("b", "picture")
    assert door.inside == ["a"]
    await door.leave("a")
    assert door.inside == ["c"]
    # Let in and cancelled in the same moment: it must not count as inside for ever.
    await door.come("d", engine.inside(2 * STEP))
    door._leave["c"].set()
    while "c" in door.inside:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await door.cancel("d")
    await door.come("e", engine.inside(2 * STEP))
    assert door.inside == ["e"]


async def test_a_budget_is_kept_and_served_in_order(door: Door) -> None:
    budget = Budget(100)
    resize: dict[str, Callable[[int], None]] = {}

    @asynccontextmanager
    async def hold(name: str, n_bytes: int) -> AsyncIterator[None]:
        async with budget.hold(n_bytes) as resize[name]:
            yield

    await door.come("a", hold("a", 60))
    await door.come("b", hold("b", 60))
    await door.come("c", hold("c", 10))  # it would fit, but then the large ones would never
    assert door.inside == ["a"]
    resize["a"](30)  # the file was shorter than thought
    assert door.inside == ["a"]
    await settle()
    assert door.inside == ["a", "b", "c"]
    resize["b"](300)  # and pixels take more; that waits for nobody
    await door.come("d", hold("d", 1))
    await door.cancel("b", "c")
    assert door.inside == ["a", "d"]
    await door.leave("a")
    await door.leave("d")
    await door.come("larger than all", hold("e", 1000))
    await door.come("f", hold("f", 1))
    assert door.inside == ["larger than all"]
    await door.cancel("f")
    await door.leave("larger than all")
    await door.come("g", hold("g", 100))
    await door.come("h", hold("h", 100))
    door._leave["g"].set()
    while "g" in door.inside:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await door.cancel("h")  # as it is let in
    await door.come("i", hold("i", 100))
    assert door.inside == ["i"]


async def test_videos_and_pictures_do_not_wait_for_each_others_memory(door: Door) -> None:
    memory = Memory(800)  # 300 for either kind, beside 100 for what is on its way
    video = short_form("x", video="file-1")
    picture = short_form("x", ["file-1"])

    @asynccontextmanager
    async def settled(messages: list[Message], n_bytes: int) -> AsyncIterator[None]:
        async with memory.hold(messages) as hold:
            await hold.settle(n_bytes)
            yield

    for n in range(3):
        await door.come(f"video {n}", settled(video, 200))
    for n in range(40):
        await door.come(f"picture {n}", settled(picture, 10))

    assert [name for name in door.inside if name.startswith("video")] == ["video 0"]
    assert len(door.inside) == 1 + 30
    assert memory.used == 200 + 300


async def test_files_on_their_way_are_counted_as_they_come_and_never_wait_for_each_other() -> None:
    """Each of 20 jobs gets a part of its files, and waits for the rest."""
    arrivals, peak = Arrivals(100), 0

    async def fetch(job: int) -> None:
        nonlocal peak
        for _ in range(8):
            await arrivals.more(job, 10)
            peak = max(peak, arrivals.used)
            await asyncio.sleep(0)
        arrivals.leave(job)

    async with asyncio.timeout(60):
        await asyncio.gather(*(fetch(job) for job in range(20)))

    assert 100 <= peak <= 100 + 80  # no more than one job beyond it
    assert arrivals.used == 0


async def test_a_fetch_that_waits_for_memory_and_is_given_up_leaves_no_trace() -> None:
    arrivals = Arrivals(10)
    await arrivals.more("a", 10)
    await arrivals.more("ahead", 10)
    waiting = asyncio.create_task(arrivals.more("b", 1))
    await settle()
    waiting.cancel()
    await settle()
    for job in ("ahead", "b"):
        arrivals.leave(job)
    await arrivals.more("c", 1)  # whoever is first to wait goes ahead now
    arrivals.leave("a")
    arrivals.leave("c")

    assert arrivals.used == 0


async def test_what_is_on_its_way_keeps_nobody_waiting_whose_files_are_here() -> None:
    memory, messages = Memory(800), short_form("x", ["file-1"])
    async with memory.hold(messages) as slow, memory.hold(messages) as slower, memory.hold(messages) as here:
        await slow.arrive(100)
        await slower.arrive(100)  # one job may go beyond
        async with asyncio.timeout(60):
            await here.settle(300)
        waiting = asyncio.create_task(slow.settle(100))
        await settle()
        assert memory.used == 500  # counted as on its way until there is a place for it
        here.resize(50)
        await waiting
        assert memory.used == 250

    assert memory.used == 0


def test_what_media_take_is_told_by_their_sizes() -> None:
    limits = PixelLimits(14, 28, 3136, 10**7, 3136, 10**6)
    picture = Pixels(560, 280, b"")
    content = [media_part(picture), {"type": "text", "text": "x"}, media_part(Frames((picture,) * 5, sample_fps=2.0))]
    conversation = [{"role": "user", "content": content}]

    assert vision_tokens(conversation, limits) == 10 * 20 * (1 + 3)  # two frames share a token, and the last stands alone
    assert pixel_bytes(conversation) == 280 * 560 * 3 * 6
