"""An engine that dies is replaced, a bounded number of times."""

from __future__ import annotations

import pytest

from tests.conftest import make_settings
from tests.double import DoubleEngine
from worker import supervisor
from worker.engines.base import EngineUnavailable
from worker.supervisor import EngineSupervisor


async def test_an_engine_that_dies_too_often_stops_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, now_s = make_settings(), 1000.0
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: now_s)
    kept = EngineSupervisor(settings, lambda: DoubleEngine(settings))
    await kept.start()
    for n in range(supervisor.MAX_RESTARTS):
        now_s += 1
        await kept.restart("dead")
        assert (kept.restarts, (await kept.health()).alive) == (n + 1, True)

    with pytest.raises(EngineUnavailable, match="died 7 times in 10 minutes"):
        await kept.restart("dead")

    kept.has_served = True  # another count, whose limit is higher
    for _ in range(supervisor.MAX_SERVED):
        now_s += 1
        await kept.restart("dead")
        assert not kept.has_served
        kept.has_served = True
    with pytest.raises(EngineUnavailable, match="died 21 times in 60 minutes"):
        await kept.restart("dead")

    kept.has_served = False
    now_s += supervisor.RESTART_WINDOW_S  # what was long ago does not count
    await kept.restart("dead")
    assert (await kept.health()).alive
