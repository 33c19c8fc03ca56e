"""How many workers the work ahead asks for."""

from __future__ import annotations

import pytest

from api.autoscaling import TARGET_S, Demand, Load, demand

IDLE = {"queued": 0, "running": 0, "ready": 0, "starting": 0, "slots": 0, "ended_recently": 0, "mean_run_s": None}
#: One worker that is full and ends two jobs a second.
BUSY = IDLE | {"ready": 1, "slots": 10, "running": 10, "ended_recently": 180, "mean_run_s": 1.0}


@pytest.mark.parametrize(
    ("load", "backlog_s", "workers"),
    [
        (IDLE, 0.0, 0),
        (IDLE | {"ready": 3, "slots": 30}, 0.0, 0),
        (IDLE | {"queued": 1}, None, 1),  # the first worker must show its pace before there are more
        (IDLE | {"queued": 5000, "starting": 3}, None, 3),  # and those that load are not taken away
        (IDLE | {"running": 1, "ready": 1, "slots": 10, "mean_run_s": 60.0}, 0.0, 1),  # a queue kept empty is not idle
        (BUSY, 0.0, 1),
        (BUSY | {"queued": 240}, 120.0, 1),
        (BUSY | {"queued": 241}, 120.5, 2),
        (BUSY | {"queued": 2400}, 1200.0, 10),
        (BUSY | {"queued": 2, "ready": 4, "slots": 40, "running": 40}, 1.0, 4),  # what runs keeps its places
        (
            IDLE | {"queued": 3, "running": 1, "ready": 1, "slots": 10, "ended_recently": 1, "mean_run_s": 5.0},
            1.5,
            1,
        ),  # a trickle
        (IDLE | {"queued": 2, "ready": 1, "slots": 1, "ended_recently": 1, "mean_run_s": 600.0}, 180.0, 2),
    ],
)
def test_work_ahead_asks_for_workers(load: dict[str, float], backlog_s: float | None, workers: int) -> None:
    assert demand(Load(**load)) == Demand(backlog_s, workers)


def test_never_more_workers_than_jobs() -> None:
    slow = IDLE | {"queued": 3, "ready": 1, "slots": 1, "ended_recently": 0, "mean_run_s": 10 * TARGET_S}
    assert demand(Load(**slow)).desired_workers == 3
