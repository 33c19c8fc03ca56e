"""A model of how workers hear of work: jobs, doorbells and workers, without time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol


class Rules(Protocol):
    """How bells are rung."""

    @property
    def chains(self) -> bool:
        """Whether a claim that leaves work rings on."""

    @property
    def pops_hungry(self) -> bool:
        """Whether who is rung for is hungry no more."""

    @property
    def one_bell(self) -> bool:
        """Whether one bell is enough for all."""


@dataclass(frozen=True)
class Worker:
    """One worker, as it sees itself and as the list of the hungry has it."""

    free: int
    running: int
    is_hungry: bool  #: registered by its last claim that came back short
    listens: bool = False  #: it has had the answer, and takes bells
    is_rung: bool = False  #: it will ask: a bell, or a place after a full answer
    answer: int | None = None  #: on its way: how many jobs it got
    asked: int = 0


@dataclass(frozen=True)
class State:
    """All that there is."""

    waiting: int  #: jobs that may start
    to_come: int  #: jobs that will be submitted
    bells: int
    workers: tuple[Worker, ...]


def begin(n_workers: int, n_jobs: int, places: int) -> State:
    """Give the state in which all workers have just started, and are about to ask."""
    worker = Worker(free=places, running=0, is_hungry=False, is_rung=True)
    return State(waiting=0, to_come=n_jobs, bells=0, workers=(worker,) * n_workers)


def bad(state: State) -> bool:
    """Tell whether a job lies beside a free worker, and nobody is about to ask."""
    about_to = any(worker.is_rung or worker.answer is not None for worker in state.workers)
    heard = state.bells > 0 and any(worker.listens for worker in state.workers)
    return state.waiting > 0 and any(worker.free for worker in state.workers) and not about_to and not heard


def steps(state: State, rules: Rules) -> Iterator[State]:
    """Give what can come next."""
    if state.to_come:
        yield ring(replace(state, waiting=state.waiting + 1, to_come=state.to_come - 1), rules)
    for n, worker in enumerate(state.workers):
        if state.bells and (worker.listens or not worker.free):  # the look of a worker that has become full may still be out
            yield replace(_with(state, n, replace(worker, is_rung=True)), bells=state.bells - 1)
        if worker.is_rung and worker.answer is None:
            yield claim_once(state, n, rules)
        if worker.answer is not None:
            yield _with(state, n, _answered(worker, worker.answer))
        if worker.running:
            done = replace(worker, free=worker.free + 1, running=worker.running - 1)
            yield _with(state, n, replace(done, is_rung=done.is_rung or not done.listens))


def ring(state: State, rules: Rules) -> State:
    """Ring, as whatever makes a job startable does."""
    hungry = [n for n, worker in enumerate(state.workers) if worker.is_hungry]
    if state.bells >= (min(1, len(hungry)) if rules.one_bell else len(hungry)):
        return state
    if rules.pops_hungry:
        state = _with(state, hungry[0], replace(state.workers[hungry[0]], is_hungry=False))
    return replace(state, bells=state.bells + 1)


def claim_once(state: State, n: int, rules: Rules) -> State:
    """Have a worker's claim come to Redis; its answer is on its way then."""
    worker = state.workers[n]
    got = min(worker.free, state.waiting)
    asking = replace(worker, is_rung=False, answer=got, asked=worker.free, is_hungry=got < worker.free)
    after = replace(_with(state, n, asking), waiting=state.waiting - got)
    return ring(after, rules) if rules.chains and after.waiting else after


def _answered(worker: Worker, got: int) -> Worker:
    is_full = got >= worker.asked
    free = worker.free - got
    asks_again = worker.is_rung or (is_full and free > 0)
    return replace(worker, free=free, running=worker.running + got, listens=not is_full, is_rung=asks_again, answer=None)


def _with(state: State, n: int, worker: Worker) -> State:
    return replace(state, workers=(*state.workers[:n], worker, *state.workers[n + 1 :]))
