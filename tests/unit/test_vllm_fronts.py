"""How requests of several processes go to one engine together."""

from __future__ import annotations

import asyncio

import pytest

from shared import aio
from worker.engines.vllm_fronts import FEW, TOGETHER_S, gather_arrivals


async def goes_on_at(came_at: float, here: int, monkeypatch: pytest.MonkeyPatch) -> float:
    slept = list[float]()

    async def sleep(for_s: float) -> None:
        slept.append(for_s)

    monkeypatch.setattr(aio.time, "monotonic", lambda: came_at)
    monkeypatch.setattr(aio.asyncio, "sleep", sleep)
    await gather_arrivals(here)
    return came_at + sum(slept)


async def test_under_load_requests_of_all_fronts_go_on_at_the_same_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    came_at = [7001.2012, 7001.2249, 7001.2498, 7001.2501, 7001.2999]

    went_on = [await goes_on_at(at, FEW + n, monkeypatch) for n, at in enumerate(came_at, start=1)]

    assert went_on == pytest.approx([7001.25] * 3 + [7001.3] * 2)
    assert all(0 < later - at <= TOGETHER_S for at, later in zip(came_at, went_on, strict=True))


async def test_a_few_requests_wait_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [await goes_on_at(7001.2012, here, monkeypatch) for here in (0, 1, FEW)] == [7001.2012] * 3


async def test_one_that_is_cancelled_meanwhile_is_gone_at_once() -> None:
    waiting = asyncio.create_task(gather_arrivals(FEW + 1))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
