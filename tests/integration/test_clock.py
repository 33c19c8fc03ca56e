"""Redis's clock counts, whatever a host's own says."""

from __future__ import annotations

import time

import pytest

from shared import clock
from shared.database import connect
from shared.settings import Settings


@pytest.mark.parametrize("ahead_s", [0, 600, -3600])
async def test_a_clock_that_differs_is_measured(settings: Settings, monkeypatch: pytest.MonkeyPatch, ahead_s: float) -> None:
    async with connect(settings) as redis:
        right = time.time
        monkeypatch.setattr(time, "time", lambda: right() + ahead_s)
        assert await clock.now_s(redis) == pytest.approx(right(), abs=2)
        skew_s = await clock.skew_s(redis)
        assert skew_s == pytest.approx(ahead_s, abs=2)
        assert clock.is_off(skew_s) is bool(ahead_s)
