"""Chores: whatever ends one is logged, told, and it is begun again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import structlog

from shared.aio import Chores


@pytest.fixture
async def chores(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Chores]:
    monkeypatch.setattr(Chores, "RESTART_S", 0.01)
    monkeypatch.setattr(Chores, "TOLD_S", 0.1)
    chores = Chores()
    yield chores
    await chores.cancel()
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("how", ["raises", "returns", "is cancelled from inside"])
async def test_a_chore_that_ends_is_told_and_begun_again(chores: Chores, how: str) -> None:
    begun = 0

    async def chore() -> None:
        nonlocal begun
        begun += 1
        if begun > 2:
            await asyncio.Event().wait()
        if how == "raises":
            raise ZeroDivisionError
        if how == "is cancelled from inside":
            raise asyncio.CancelledError

    with structlog.testing.capture_logs() as logged:
        chores.begin("work", chore)
        await asyncio.sleep(0)
        assert chores.down == ["work"]
        async with asyncio.timeout(60):
            while begun < 3:  # noqa: ASYNC110  # nobody tells a test
                await asyncio.sleep(0.01)

    assert [(entry["event"], entry["chore"], entry["log_level"]) for entry in logged] == [("chore.ended", "work", "error")] * 2
    async with asyncio.timeout(60):
        while chores.down:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_chore_with_an_end_may_reach_it(chores: Chores) -> None:
    begun = 0

    async def chore() -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            raise ZeroDivisionError

    with structlog.testing.capture_logs() as logged:
        chores.begin("check", chore, endless=False)
        await asyncio.sleep(0.05)

    assert begun == 2
    assert len(logged) == 1
