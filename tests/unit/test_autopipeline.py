"""Calls that travel together: each gets its own answer, and a lone one waits for nobody."""

from __future__ import annotations

import asyncio

import pytest

from shared.store.autopipeline import AutoPipeline


class Road:
    """Answers each call with ten times as much; negative ones fail, and so does everything when the road is closed."""

    def __init__(self) -> None:
        self.trips: list[list[int]] = []
        self.open = asyncio.Event()
        self.closed_by: Exception | None = None

    async def travel(self, calls: list[int]) -> list[object]:
        self.trips.append(calls)
        await self.open.wait()
        if self.closed_by:
            raise self.closed_by
        return [ValueError(str(call)) if call < 0 else 10 * call for call in calls]


async def test_calls_that_come_meanwhile_go_together() -> None:
    road = Road()
    convoy = AutoPipeline(road.travel)
    first = asyncio.create_task(convoy.send(1))
    await asyncio.sleep(0.01)
    others = [asyncio.create_task(convoy.send(n)) for n in (2, -3, 4)]
    await asyncio.sleep(0.01)
    road.open.set()

    answers = await asyncio.gather(first, *others, return_exceptions=True)

    assert road.trips == [[1], [2, -3, 4]]
    assert [answers[0], answers[1], answers[3]] == [10, 20, 40]
    assert isinstance(answers[2], ValueError)
    assert await convoy.send(5) == 50


async def test_what_stops_a_trip_is_told_to_everybody_on_it_and_the_next_one_leaves() -> None:
    road = Road()
    convoy = AutoPipeline(road.travel)
    road.open.set()
    road.closed_by = OSError()
    for ended in await asyncio.gather(convoy.send(1), convoy.send(2), return_exceptions=True):
        assert isinstance(ended, OSError)

    road.closed_by = None

    assert await convoy.send(3) == 30


async def test_a_caller_that_leaves_takes_nobody_with_it() -> None:
    road = Road()
    convoy = AutoPipeline(road.travel)
    leaving, staying = asyncio.create_task(convoy.send(1)), asyncio.create_task(convoy.send(2))
    await asyncio.sleep(0.01)

    leaving.cancel()
    road.open.set()

    assert await staying == 20
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_to_settle_is_to_wait_for_the_trip_under_way() -> None:
    road = Road()
    convoy = AutoPipeline(road.travel)
    leaving = asyncio.create_task(convoy.send(1))
    await asyncio.sleep(0.01)
    leaving.cancel()  # the trip goes on
    asyncio.get_running_loop().call_later(0.05, road.open.set)

    await convoy.settle(5)

    assert road.open.is_set()
    assert len(asyncio.all_tasks()) == 1


async def test_a_trip_that_takes_too_long_is_dropped() -> None:
    convoy = AutoPipeline(Road().travel)
    lost = asyncio.create_task(convoy.send(1))
    await asyncio.sleep(0.01)

    await convoy.settle(0.01)

    with pytest.raises(asyncio.CancelledError):
        await lost
    await convoy.settle(5)
