"""Turns: the most urgent goes next, and no turn is lost when somebody leaves."""

from __future__ import annotations

import asyncio

from shared.aio import cancel_all
from worker.admission import Turns


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_most_urgent_goes_next_and_equals_in_their_order() -> None:
    turns, order = Turns(1), list[str]()

    async def want(rank: int, name: str) -> None:
        async with turns.take(rank):
            order.append(name)

    async with turns.take(0):
        waiting = [asyncio.create_task(want(*wish)) for wish in ((9, "bulk"), (5, "a"), (5, "b"), (1, "chat"))]
        await settle()
        assert order == []
    await asyncio.gather(*waiting)

    assert order == ["chat", "a", "b", "bulk"]


async def test_as_many_at_a_time_as_may_and_none_lost() -> None:
    turns, inside, peak = Turns(3), 0, 0

    async def work(rank: int) -> None:
        nonlocal inside, peak
        async with turns.take(rank):
            inside += 1
            peak = max(peak, inside)
            try:
                await asyncio.sleep(0.001 * (rank % 3))
            finally:
                inside -= 1

    for _ in range(20):
        tasks = [asyncio.create_task(work(rank)) for rank in range(20)]
        await asyncio.sleep(0.002)
        await cancel_all(set(tasks[::2]))  # some inside, some waiting, some whose turn came just now
        await asyncio.gather(*tasks[1::2])
    assert (inside, peak) == (0, 3)

    async with asyncio.timeout(60), turns.take(0), turns.take(0), turns.take(0):
        pass
