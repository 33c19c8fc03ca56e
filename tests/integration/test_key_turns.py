"""A key with a limit of running jobs gets it in full: the end of one starts the next, the oldest first."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest

from shared.errors import CancelledByClient, EngineFailed
from shared.jobs import JobRequest, JobStatus, Priority
from shared.settings import Settings
from shared.store.api_keys import ApiKeys
from shared.store.claims import Claim
from shared.store.ids import new_id
from shared.store.jobs import JobStore
from tests.claims import next_claims
from tests.integration.conftest import Worker, bells, until

IMAGE = "https://example.com/cat.png"


class Key:
    """An API key with a limit, and its jobs."""

    def __init__(self, store: JobStore, settings: Settings) -> None:
        self.store, self.settings = store, settings
        self.id = ""

    async def limit(self, n: int) -> None:
        key, _ = await ApiKeys(self.store.redis).create("two", max_running=n)
        self.id = key.id

    async def submit(self, prompt: str = "x", *, priority: Priority = Priority.DEFAULT, start_deadline_s: int = 60) -> str:
        job_id = new_id("job")
        request = JobRequest(
            messages=[{"role": "user", "content": prompt}],  # type: ignore[list-item]
            start_deadline_s=start_deadline_s,
        )
        await self.store.submit(request, self.settings, owner=self.id, job_id=job_id, priority=priority)
        return job_id

    async def claims(self, n: int = 9, **how: Any) -> list[str]:
        return [claim.job_id for claim in await next_claims(self.store, n, **how)]

    async def end(self, claim: Claim) -> None:
        assert await self.store.complete(claim, JobStatus.FAILED, output=None, error=EngineFailed())

    async def running(self) -> int:
        return (await self.store.counts())["running"]


@pytest.fixture
async def key(store: JobStore, settings: Settings) -> Key:
    key = Key(store, settings)
    await key.limit(2)
    return key


@pytest.mark.parametrize("prompt", ["!slow 0.1", "!slow 0.1 !long"])
async def test_as_many_run_as_may_all_the_time(settings: Settings, store: JobStore, prompt: str) -> None:
    """Without rescue: each end starts the next."""
    key = Key(store, settings)
    await key.limit(4)
    async with Worker(settings.model_copy(update={"rescue_every_s": 60.0})).running() as worker:
        ids = [await key.submit(prompt) for _ in range(40)]
        await until(lambda: _is(worker.engine.running == 4))
        samples = list[int]()
        while (await store.counts())["queued"] > 4:
            samples.append(await key.running())
            await asyncio.sleep(0.005)

        assert max(samples) == 4
        assert samples.count(4) > 0.6 * len(samples)  # the rest: between an end and the next claim
        await until(lambda: _all_ended(store, ids))
        assert worker.engine.peak == 4
        started = sorted([((await store.get(job_id)).started_at, n) for n, job_id in enumerate(ids)])
        assert all(abs(place - n) < 8 for place, (_, n) in enumerate(started))  # claims of one moment may change places


async def _is(value: bool) -> bool:  # noqa: FBT001
    return value


async def _all_ended(store: JobStore, ids: list[str]) -> bool:
    return all([(await store.get(job_id)).status.is_final for job_id in ids])


async def test_those_beyond_the_limit_wait_and_take_their_turns_in_order(key: Key) -> None:
    ids = [await key.submit() for _ in range(6)]
    first, second = await next_claims(key.store, 9)

    assert [first.job_id, second.job_id] == ids[:2]
    await key.end(first)
    assert await key.claims() == [ids[2]]
    assert await key.claims() == []
    await key.end(second)
    await key.submit()
    assert await key.claims() == [ids[3]]
    assert (await key.store.counts())["queued"] == 3


async def test_a_key_at_its_limit_hides_nobody(key: Key, settings: Settings) -> None:
    for _ in range(50):
        await key.submit()
    other = Key(key.store, settings)
    await other.limit(0)
    theirs = [await other.submit() for _ in range(3)]

    assert set(await key.claims(5)) > set(theirs)
    assert await key.claims() == []
    assert (
        await key.store.redis.zcard("sightline:{sightline}:ready:default:qwen-vl") == 0
    )  # who may not run is looked at by nobody


@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_one_that_ends_while_it_waits_is_passed_over(key: Key, how: str) -> None:
    ids = [await key.submit() for _ in range(5)]
    first, _ = await next_claims(key.store, 9)
    if how == "cancel":
        await key.store.cancel(ids[2], CancelledByClient())
    else:
        await key.store.redis.hset(f"sightline:{{sightline}}:job:{ids[2]}", "created_ms", 1)  # type: ignore[misc]

    await key.end(first)

    assert await key.claims() == [ids[3]]
    assert (await key.store.get(ids[2])).status.is_final


@pytest.mark.parametrize("how", ["died", "left", "retried"])
async def test_a_turn_that_its_job_gave_up_is_taken(key: Key, how: Literal["died", "left", "retried"]) -> None:
    ids = [await key.submit() for _ in range(5)]
    first, second = await next_claims(key.store, 9)
    if how == "died":
        await key.store.rescue(key.settings.model_copy(update={"max_attempts": 1}), dead=["w"])
        assert await key.claims() == ids[2:4]
    else:
        await key.store.release(first, "leave" if how == "left" else "retry", after_s=60)
        assert await key.claims() == [ids[2]]
        await key.end(second)
        assert await key.claims() == [ids[3]]


async def test_a_limit_that_is_raised_or_gone_lets_more_run(key: Key) -> None:
    ids = [await key.submit() for _ in range(7)]
    assert await key.claims() == ids[:2]
    keys = ApiKeys(key.store.redis)
    await keys.limit(key.id, max_running=4)
    assert await key.claims() == ids[2:4]
    await keys.limit(key.id, max_running=1)
    assert await key.claims() == []

    await keys.limit(key.id, max_running=0)
    assert await key.claims() == ids[4:]


async def test_a_limit_that_is_raised_rings(key: Key) -> None:
    redis = key.store.redis
    await key.store.hang_bell("qwen-vl", "a bell")
    for _ in range(5):
        await key.submit()
    await key.claims()  # it gets two, and is hungry
    assert await bells(redis) == 0

    await ApiKeys(redis).limit(key.id, max_running=4)

    assert await bells(redis) == 1


async def test_chats_of_a_key_go_before_its_batches(key: Key) -> None:
    ids = [await key.submit(priority=priority) for priority in [Priority.BULK] * 3 + [Priority.DEFAULT, Priority.INTERACTIVE]]
    first, second = await next_claims(key.store, 9)

    assert [first.job_id, second.job_id] == [ids[4], ids[3]]
    await key.end(first)
    assert await key.claims(n_bulk=0) == []
    assert await key.claims() == [ids[0]]


async def test_a_repeated_call_gets_what_it_got(key: Key) -> None:
    ids = [await key.submit() for _ in range(5)]

    assert [await key.claims(token="one") for _ in range(2)] == [ids[:2]] * 2
    assert await key.running() == 2
