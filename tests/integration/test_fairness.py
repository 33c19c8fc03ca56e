"""Fair between owners: by virtual time, that is tokens over weight, within the bound that the theory gives."""

from __future__ import annotations

from itertools import combinations

import pytest
from redis.asyncio import Redis

from shared.jobs import JobRequest, JobStatus
from shared.messages import short_form
from shared.settings import Settings
from shared.store.api_keys import ApiKeys
from shared.store.ids import new_id
from shared.store.jobs import JobStore
from tests.claims import next_claims

FILM, PICTURE = 16_000, 300
REQUEST = JobRequest(messages=short_form("x", ["file-1"]))


async def submit(store: JobStore, settings: Settings, owner: str, cost: int, n: int) -> None:
    for _ in range(n):
        job_id, _ = await store.submit(REQUEST, settings, owner=owner, job_id=new_id("job"))
        await store.redis.hset(f"sightline:{{sightline}}:job:{job_id}", "cost", cost)  # type: ignore[misc]


async def owners_of(store: JobStore, n: int) -> list[str]:
    """Start jobs, and give whose they are."""
    claims = await next_claims(store, n)
    async with store.redis.pipeline(transaction=False) as pipe:
        for claim in claims:
            pipe.hget(f"sightline:{{sightline}}:job:{claim.job_id}", "owner")
        return list(await pipe.execute())


@pytest.mark.parametrize("at_once", [1, 4, 16])
async def test_owners_stay_within_the_bound(at_once: int, store: JobStore, settings: Settings, redis: Redis) -> None:
    """Films against pictures, of owners with weights: none gets ahead by more than the largest jobs of two."""
    costs = {f"o{n}": FILM if n % 2 else PICTURE for n in range(6)}
    weights = {owner: 1 + n % 4 for n, owner in enumerate(costs)}
    n_jobs = {owner: 12 if cost == FILM else 700 for owner, cost in costs.items()}
    for owner, cost in costs.items():
        await ApiKeys(redis).limit(owner, weight=weights[owner])
        await submit(store, settings, owner, cost, n_jobs[owner])

    got = dict.fromkeys(costs, 0)
    while all(got[owner] < n_jobs[owner] * costs[owner] for owner in costs):  # as long as everybody has something waiting
        for owner in await owners_of(store, at_once):
            got[owner] += costs[owner]
            for one, other in combinations(costs, 2):
                gap = abs(got[one] / weights[one] - got[other] / weights[other])
                assert gap <= costs[one] / weights[one] + costs[other] / weights[other]


async def test_a_few_jobs_beside_anothers_backlog_start_soon(store: JobStore, settings: Settings) -> None:
    await submit(store, settings, "a", PICTURE, 500)
    assert await owners_of(store, 50) == ["a"] * 50
    await submit(store, settings, "b", PICTURE, 10)

    assert (await owners_of(store, 21)).count("b") == 10


async def test_who_had_nothing_to_do_has_saved_nothing(store: JobStore, settings: Settings) -> None:
    await submit(store, settings, "idle", PICTURE, 1)
    await owners_of(store, 1)
    await submit(store, settings, "busy", PICTURE, 150)
    await owners_of(store, 100)

    await submit(store, settings, "idle", PICTURE, 20)

    assert 9 <= (await owners_of(store, 20)).count("idle") <= 11


async def test_a_claim_costs_the_same_however_many_owners_may_not_run(
    store: JobStore, settings: Settings, redis: Redis
) -> None:
    """Counted in Redis's commands."""

    async def commands() -> int:
        return sum(int(stat["calls"]) for stat in (await redis.info("commandstats")).values())

    counted = []
    for n in (1, 40):
        for owner in (f"{n}-{number}" for number in range(n)):
            await ApiKeys(redis).limit(owner, max_running=1)
            await submit(store, settings, owner, PICTURE, 3)
        await next_claims(store, n)
        before = await commands()
        assert await next_claims(store, 4) == []
        counted.append(await commands() - before)

    assert counted[0] == counted[1] < 25


async def test_the_end_of_a_job_lets_the_next_of_its_owner_start_in_each_class(
    store: JobStore, settings: Settings, redis: Redis
) -> None:
    await ApiKeys(redis).limit("me", max_running=1)
    for priority in ("bulk", "default", "interactive"):
        await store.submit(REQUEST, settings, owner="me", job_id=new_id("job"), priority=priority)  # type: ignore[arg-type]

    order = []
    while claims := await next_claims(store, 3):
        order += [claim.priority for claim in claims]
        assert len(claims) == 1
        await store.complete(claims[0], JobStatus.FAILED, output=None, error=None)

    assert order == ["interactive", "default", "bulk"]
