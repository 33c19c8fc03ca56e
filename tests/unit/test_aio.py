"""What asyncio lacks: things that are done together end together."""

from __future__ import annotations

import asyncio

import pytest

from shared.aio import gather_all


async def test_when_one_fails_the_others_end_before_its_error_is_told() -> None:
    ended = list[str]()

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("the first") from KeyError("why")

    async def go_on(name: str) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            ended.append(name)
            raise RuntimeError(name) from None  # what comes of the cancel is not the job's error

    with pytest.raises(ValueError, match="the first") as told:
        await gather_all([go_on("a"), fail(), go_on("b")])

    assert sorted(ended) == ["a", "b"]
    assert isinstance(told.value.__cause__, KeyError)


async def test_who_is_cancelled_takes_all_along_and_results_keep_their_order() -> None:
    cancelled = list[int]()

    async def wait(n: int) -> int:
        try:
            await asyncio.sleep(n)
        except asyncio.CancelledError:
            cancelled.append(n)
            raise
        return n

    gathering = asyncio.create_task(gather_all([wait(50), wait(60)]))
    await asyncio.sleep(0.01)
    gathering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gathering

    assert sorted(cancelled) == [50, 60]
    assert await gather_all([asyncio.sleep(0.01, "late"), asyncio.sleep(0, "soon")]) == ["late", "soon"]
    assert await gather_all([]) == []
