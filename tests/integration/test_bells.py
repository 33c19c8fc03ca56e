"""The store's scripts ring as the model of :mod:`tests.wakeups` does, whatever comes in which order."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
from redis.asyncio import Redis

from shared.doorbells import queue_of
from shared.jobs import JobRequest, JobStatus
from shared.messages import short_form
from shared.settings import DEFAULT_MODEL, Settings
from shared.store.claims import Claim
from shared.store.ids import new_id
from shared.store.jobs import JobStore
from shared.store.key_names import bell_prefix
from tests.claims import next_claims
from tests.integration.conftest import bells
from tests.wakeups import State, Worker, begin, claim_once, ring

BELLS = f"{bell_prefix()}{queue_of(DEFAULT_MODEL)}"
REQUEST = JobRequest(messages=short_form("x", ["file-1"]))


@dataclass(frozen=True)
class Rules:
    """Ours."""

    chains: bool = True
    pops_hungry: bool = False
    one_bell: bool = False


@pytest.fixture
async def store(store: JobStore) -> JobStore:
    await store.hang_bell(DEFAULT_MODEL, "a bell")
    return store


async def submit(store: JobStore, settings: Settings, owner: str = "me") -> str:
    job_id, _ = await store.submit(REQUEST, settings, owner=owner, job_id=new_id("job"))
    return job_id


@pytest.mark.parametrize("seed", range(6))
async def test_the_scripts_ring_as_the_model_does(seed: int, store: JobStore, settings: Settings, redis: Redis) -> None:
    dice, state, held = random.Random(seed), begin(3, 1000, 2), [list[Claim]() for _ in range(3)]
    for _ in range(300):
        n = dice.randrange(3)
        worker = state.workers[n]
        what = dice.choice(["submit", "bell", "ask", "ask", "end"])
        if what == "submit":
            await submit(store, settings, dice.choice(["me", "you"]))
            state = ring(replace(state, waiting=state.waiting + 1), Rules())
        elif what == "bell" and state.bells:
            assert await redis.rpop(BELLS) == "a bell"
            state = replace(state, bells=state.bells - 1)
        elif what == "ask":
            state = claim_once(state, n, Rules())
            claims = await next_claims(store, worker.free, worker=f"w{n}")
            assert len(claims) == state.workers[n].answer
            held[n] += claims
            state = _with(state, n, free=worker.free - len(claims))
        elif what == "end" and held[n]:
            await store.complete(held[n].pop(), JobStatus.FAILED, output=None, error=None)
            state = _with(state, n, free=worker.free + 1)
        assert await redis.llen(BELLS) == state.bells, what
        assert (await store.counts())["queued"] == state.waiting


def _with(state: State, n: int, *, free: int) -> State:
    after: Worker = replace(state.workers[n], free=free, answer=None)
    return replace(state, workers=(*state.workers[:n], after, *state.workers[n + 1 :]))


async def test_work_of_a_class_rings_for_those_who_take_it(store: JobStore, settings: Settings, redis: Redis) -> None:
    assert await next_claims(store, 4, worker="chats", n_bulk=0) == []
    await store.submit(REQUEST, settings, owner="me", job_id=new_id("job"), priority="bulk")  # type: ignore[arg-type]
    assert await bells(redis) == 0
    assert await next_claims(store, 4, worker="chats", n_bulk=0) == []
    assert await bells(redis) == 0  # nobody rings for himself
    await submit(store, settings)
    assert await bells(redis) == 1

    assert len(await next_claims(store, 1, worker="all")) == 1
    assert await next_claims(store, 0, worker="all") == []
    assert await bells(redis) == 0


async def test_who_has_been_silent_is_not_rung_for(store: JobStore, settings: Settings, redis: Redis) -> None:
    assert await next_claims(store, 4) == []
    await redis.zincrby(f"sightline:{{sightline}}:hungry:{DEFAULT_MODEL}", -5000, "w")

    await submit(store, settings)

    assert await bells(redis) == 0


@pytest.mark.parametrize("way", ["hand back", "rescue", "delay over", "turn free"])
async def test_whatever_makes_a_job_startable_rings(way: str, store: JobStore, settings: Settings, redis: Redis) -> None:
    await redis.hset("sightline:{sightline}:owner:me", "max_running", 1)  # type: ignore[misc]
    await submit(store, settings)
    (claim,) = await next_claims(store, 1)
    if way == "turn free":
        await submit(store, settings)
    if way == "delay over":
        await store.release(claim, "retry", after_s=60)
        await redis.zadd("sightline:{sightline}:delayed", {claim.job_id: 1})
    assert await next_claims(store, 1, worker="hungry") == []
    assert await bells(redis) == 0

    if way == "hand back":
        await store.release(claim, "leave")
    elif way == "turn free":
        await store.complete(claim, JobStatus.FAILED, output=None, error=None)
    else:
        await store.rescue(settings, dead=["w"] if way == "rescue" else [])

    assert await bells(redis) == 1


async def test_a_worker_that_leaves_is_rung_for_no_more(store: JobStore, settings: Settings, redis: Redis) -> None:
    assert await next_claims(store, 1) == []
    await store.leave("w", DEFAULT_MODEL)

    await submit(store, settings)

    assert await bells(redis) == 0
    assert await redis.keys("sightline:{sightline}:*:w") == []
