"""When a worker asks for jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shared.aio import cancel_all
from shared.settings import Settings
from shared.store.claims import Asked
from worker import claiming
from worker.claiming import Asking, Places


class Store:
    """Gives so many jobs, and notes how many were asked for."""

    def __init__(self, *answers: int) -> None:
        self.answers, self.asked, self.tokens = list(answers), list[tuple[int, int]](), list[str]()

    async def claim(self, _worker: str, _model: str, n: int, *, n_bulk: int, token: str, **_: Any) -> Asked:
        self.asked.append((n, n_bulk))
        self.tokens.append(token)
        return Asked([None] * (self.answers.pop(0) if self.answers else 0), has_more=False)  # type: ignore[list-item]


class Bench:
    """A worker's places, and who asks for it."""

    def __init__(self, store: Store, places: int, bulk: int | None = None) -> None:
        self.free, self.bulk, self.hungry = places, bulk, list[bool]()
        self.asking = Asking(
            *(Settings(), store, "w"),  # type: ignore[arg-type]
            places=lambda: Places(self.free, self.free, self.free if self.bulk is None else self.bulk),
            start=lambda _: self._take(),
            on_hunger=self.hungry.append,
        )

    def _take(self) -> None:
        self.free -= 1
        if self.bulk:
            self.bulk -= 1

    def end(self) -> None:
        self.free += 1
        if self.bulk is not None:
            self.bulk += 1
        self.asking.free()


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[None]:
    task = asyncio.create_task(bench.asking.run())
    await asyncio.sleep(0.05)
    yield
    await cancel_all({task})


@pytest.fixture(autouse=True)
def _no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claiming, "ASK_EVERY_S", 3600)


async def settled(store: Store, n: int) -> None:
    async with asyncio.timeout(60):
        while len(store.asked) < n:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert len(store.asked) == n


async def test_a_free_worker_asks_at_the_start_and_when_rung() -> None:
    store = Store(1)
    bench = Bench(store, 4)
    async with running(bench):
        await settled(store, 1)
        bench.end()  # the last answer was short: whatever comes is rung for
        await settled(store, 1)
        bench.asking.ring()
        await settled(store, 2)

    assert store.asked == [(4, 4), (4, 4)]
    assert bench.hungry == [True, True]


async def test_after_a_full_answer_each_place_that_is_free_is_asked_for_and_those_of_a_moment_together() -> None:
    store = Store(2, 2)
    bench = Bench(store, 2)
    async with running(bench):
        await settled(store, 1)
        bench.end()
        bench.end()
        await settled(store, 2)

    assert store.asked == [(2, 2), (2, 2)]
    assert bench.hungry == [False, False]


@pytest.mark.parametrize(("ended", "gathers"), [(1, 5), (15, 5), (16, 1)])
async def test_few_places_of_many_wait_for_more_and_enough_of_them_do_not(
    ended: int, gathers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a full worker of 256 slots 64 jobs wait for the engine; a wave that ends together is asked for at once."""
    slept = list[float]()

    async def sleep(for_s: float) -> None:
        slept.append(for_s)

    bench = Bench(Store(), ended)
    monkeypatch.setattr(claiming.asyncio, "sleep", sleep)
    await bench.asking._gather()

    assert slept == [claiming.GATHER_S] * gathers


async def test_a_place_for_a_class_that_had_none_is_asked_for() -> None:
    """The answer was short, but for lack of places for lines of batches: nobody rings for those."""
    store = Store(1, 1)
    bench = Bench(store, 4, bulk=1)
    async with running(bench):
        await settled(store, 1)
        bench.end()
        await settled(store, 2)

    assert store.asked == [(4, 1), (4, 1)]


async def test_a_full_worker_that_is_rung_asks_for_none_so_that_others_are() -> None:
    store = Store(1)
    bench = Bench(store, 1)
    async with running(bench):
        await settled(store, 1)
        bench.asking.ring()
        await settled(store, 2)

    assert store.asked == [(1, 1), (0, 0)]
    assert bench.hungry == [False, False]


async def test_who_leaves_waits_for_the_jobs_of_an_ask_that_is_under_way() -> None:
    """Nobody would know of them: they would be rescued, and charged."""
    may_answer = asyncio.Event()

    class Slow(Store):
        async def claim(self, *args: Any, **facts: Any) -> Asked:
            answer = await super().claim(*args, **facts)
            await may_answer.wait()
            return answer

    store = Slow(2)
    bench = Bench(store, 2)
    async with running(bench):
        leaving = asyncio.create_task(bench.asking.stop(5))
        await asyncio.sleep(0.05)
        assert not leaving.done()
        may_answer.set()
        await leaving
        assert bench.free == 0
        bench.end()
        bench.asking.ring()
        await settled(store, 1)
