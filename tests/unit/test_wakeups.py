"""The protocol of doorbells, in a model: in no order of events does a job lie beside a free worker that nobody will ask for.

The model leaves the ask of each second out, which would hide every mistake. :mod:`tests.integration.test_bells` has the real
scripts follow it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from tests.wakeups import State, Worker, bad, begin, claim_once, steps


@dataclass(frozen=True)
class Rules:
    """What is wrong with a protocol; nothing of ours."""

    chains: bool = True  #: a claim that leaves work rings on
    pops_hungry: bool = False  #: who is rung for is taken off the hungry
    one_bell: bool = False  #: as long as one bell lies, none is added


def reached(start: State, rules: Rules) -> Iterator[State]:
    """Walk through every state that can come, whatever the order of events; workers are alike, so their order is none."""
    seen, todo = {start}, [start]
    while todo:
        state = todo.pop()
        yield state
        for step in steps(state, rules):
            after = replace(step, workers=tuple(sorted(step.workers, key=hash)))
            if after not in seen:
                seen.add(after)
                todo.append(after)


@pytest.mark.parametrize(("n_workers", "n_jobs", "places"), [(1, 4, 1), (2, 4, 1), (3, 4, 1), (2, 4, 2), (3, 3, 2)])
def test_no_job_lies_beside_a_free_worker(n_workers: int, n_jobs: int, places: int) -> None:
    states = list(reached(begin(n_workers, n_jobs, places), Rules()))

    assert not [state for state in states if bad(state)]
    assert any(state.waiting == 0 and state.to_come == 0 for state in states)


@pytest.mark.parametrize("wrong", [{"chains": False}, {"one_bell": True, "chains": False}, {"pops_hungry": True}])
def test_what_one_would_first_write_is_found_out(wrong: dict[str, bool]) -> None:
    assert any(map(bad, reached(begin(3, 3, 1), Rules(**wrong))))


def test_a_full_worker_that_took_a_bell_rings_on() -> None:
    full, hungry = Worker(free=0, running=1, is_hungry=False), Worker(free=1, running=0, is_hungry=True)
    state = State(waiting=1, to_come=0, bells=0, workers=(replace(full, is_rung=True), hungry))

    assert claim_once(state, 0, Rules()).bells == 1
