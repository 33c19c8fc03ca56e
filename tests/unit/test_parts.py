"""What the parts have left in Redis tells who is missing, and who dies again and again."""

from __future__ import annotations

import math

from shared.store.parts import LAPSE_S, LATE_S, MANY, Found, remarks

NOW = 1_000_000.0
FRESH, STALE = NOW - 1000, NOW - 1000 * LAPSE_S - 1


def found(*, seen: dict[str, float] | None = None, batches: int = 0, due: float = math.inf) -> Found:
    return Found(NOW, seen or {}, batches, due)


def test_all_is_well() -> None:
    assert remarks(found()) == []
    assert remarks(found(seen={"batches h 1": FRESH, "webhooks h 2": FRESH}, batches=3, due=0)) == []
    assert remarks(found(due=NOW - 1000 * LATE_S)) == []
    assert remarks(found(due=NOW + 5000)) == []


def test_work_that_nobody_does_is_told() -> None:
    (told,) = remarks(found(seen={"gateway h 1": FRESH, "batches h 2": STALE}, batches=2))
    assert told == "no batch runner runs (python -m api.batches.main), and 2 batches wait"
    (told,) = remarks(found(due=NOW - 1000 * LATE_S - 1))
    assert told.startswith("no webhook sender runs (python -m worker.main webhooks)")


def test_who_dies_again_and_again_is_told() -> None:
    dead = {f"jobs h1 {n}": STALE for n in range(MANY)}

    (told,) = remarks(found(seen={**dead, "jobs h1 x": FRESH}))
    assert told == "a worker has died 3 times within 15 minutes; its log says why"
    assert "a worker on h1 has died" in remarks(found(seen=dead), hosts=True)[0]
    assert remarks(found(seen={name: at for name, at in dead.items() if name != "jobs h1 0"})) == []
    apart = {f"jobs h{n} 1": STALE for n in range(5)}
    assert remarks(found(seen=apart)) == []  # five hosts were switched off
    (told,) = remarks(found(seen={f"consumer h1 {n}": STALE for n in range(9)}))
    assert told.startswith("a doorbell consumer of a worker has")


def test_the_living_are_counted() -> None:
    assert found(seen={"jobs a 1": FRESH, "jobs b 1": FRESH, "gateway a 2": STALE}).living == {"jobs": 2}
