"""A key with a limit of running jobs gets it in full: the end of one starts the next, the oldest first."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest
from redis.asyncio import Redis

from shared.errors import CancelledByClient, EngineFailed
from shared.jobs import JobRequest, JobStatus, Priority
from shared.queue import Doorbell
from shared.settings import Settings
from shared.store.api_keys import ApiKeys
from shared.store.connection import new_id
from shared.store.jobs import Claim, JobStore
from tests.integration.conftest import Worker, until

IMAGE = "https://example.com/cat.png"


class Key:
    """An API key with a limit, and its jobs."""

    def __init__(self, store: JobStore, settings: Settings) -> None:
        self.store, self.settings = store, settings
        self.bell = Doorbell(settings, store.redis)
        self.id = ""

    async def limit(self, n: int) -> None:
        key, _ = await ApiKeys(self.store.redis).create("two", max_running=n)
        self.id = key.id

    async def submit(
        self, prompt: str = "x", *, priority: Priority = Priority.DEFAULT, ring: bool = False, start_deadline_s: int = 60
    ) -> str:
        job_id = new_id("job")
        request = JobRequest(
            messages=[{"role": "user", "content": prompt}],  # type: ignore[list-item]
            start_deadline_s=start_deadline_s,
        )
        doorbell = self.bell.job_message(job_id, priority) if ring else ""
        await self.store.submit(request, self.settings, owner=self.id, job_id=job_id, priority=priority, doorbell=doorbell)
        return job_id

    async def claim(self, job_id: str, token: str | None = None) -> Claim | None:
        return await self.store.claim(job_id, worker="w", lease_s=60, token=token)

    async def turn(self, *, bulk: bool = True, token: str | None = None) -> Claim | str | None:
        return await self.store.claim_turn(self.id, bulk=bulk, worker="w", lease_s=60, token=token)

    async def end(self, claim: Claim | str | None) -> None:
        assert isinstance(claim, Claim)
        assert await self.store.complete(claim, JobStatus.FAILED, output=None, error=EngineFailed())

    async def running(self) -> int:
        return int(await self.store.redis.scard(f"{{sightline}}:running_of:{self.id}"))


@pytest.fixture
async def key(store: JobStore, settings: Settings) -> Key:
    key = Key(store, settings)
    await key.limit(2)
    return key


def job_of(claim: Claim | str | None) -> str | None:
    return claim.job_id if isinstance(claim, Claim) else claim


@pytest.mark.parametrize("prompt", ["!slow 0.1", "!slow 0.1 !long"])
async def test_as_many_run_as_may_all_the_time(settings: Settings, store: JobStore, prompt: str) -> None:
    """Without rescue: each end starts the next."""
    key = Key(store, settings)
    await key.limit(4)
    async with Worker(settings.model_copy(update={"rescue_every_s": 60.0})).running() as worker:
        ids = [await key.submit(prompt, ring=True) for _ in range(40)]
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
    first, second, *others = [await key.claim(job_id) for job_id in [*ids[:2], *ids[:1:-1]]]  # the doorbells came in disorder

    assert others == [None] * 4
    assert first is not None
    assert first.limited_owner == key.id
    await key.end(first)
    third = await key.turn()
    assert job_of(third) == ids[2]
    assert await key.turn() is None
    await key.end(second)
    newest = await key.submit()
    assert job_of(await key.claim(newest)) == ids[3]  # its doorbell is as good for one that waits longer
    await key.end(third)
    assert [job_of(await key.turn()) for _ in range(2)] == [ids[4], None]
    assert (await key.store.counts())["queued"] == 2


async def test_those_that_wait_are_not_rung_for_nor_taken_for_lost_doorbells(key: Key) -> None:
    ids = [await key.submit() for _ in range(5)]
    for job_id in ids:
        await key.claim(job_id)
    assert (await key.store.counts())["queued"] == 3

    assert [await key.store.rescue(key.settings, priority) for priority in Priority] == [[], [], []]
    assert await key.store.turns() == []


@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_one_that_ends_while_it_waits_is_passed_over(key: Key, how: str) -> None:
    ids = [await key.submit() for _ in range(5)]
    claims = [await key.claim(job_id) for job_id in ids]
    if how == "cancel":
        await key.store.cancel(ids[2], CancelledByClient())
    else:
        await key.store.redis.hset(f"{{sightline}}:job:{ids[2]}", "created_ms", 1)  # type: ignore[misc]

    await key.end(claims[0])

    assert job_of(await key.turn()) == ids[3]
    assert (await key.store.get(ids[2])).status.is_final


@pytest.mark.parametrize("how", ["died", "left", "retried"])
async def test_a_turn_that_nobody_went_on_with_is_found(
    key: Key, redis: Redis, how: Literal["died", "left", "retried"]
) -> None:
    ids = [await key.submit() for _ in range(5)]
    claims = [await key.claim(job_id) for job_id in ids]
    assert claims[0] is not None
    if how == "died":
        await redis.zadd("{sightline}:running", {ids[0]: 1})
        await key.store.rescue(key.settings.model_copy(update={"max_attempts": 1}))
    else:
        await key.store.release(claims[0], "leave" if how == "left" else "retry", after_s=60)

    assert await key.store.turns() == [(ids[2], Priority.DEFAULT)]
    assert await key.store.turns() == []  # for some seconds
    assert job_of(await key.claim(ids[2])) == ids[2]


async def test_a_limit_that_is_raised_or_gone_lets_more_run(key: Key, redis: Redis) -> None:
    ids = [await key.submit() for _ in range(5)]
    for job_id in ids:
        await key.claim(job_id)
    await redis.hset(f"{{sightline}}:key:{key.id}", "max_running", 4)  # type: ignore[misc]
    await redis.zadd("{sightline}:holding", {key.id: 1})
    assert [job_id for job_id, _ in await key.store.turns()] == ids[2:4]

    await redis.hdel(f"{{sightline}}:key:{key.id}", "max_running")  # type: ignore[misc]
    await redis.zadd("{sightline}:holding", {key.id: 1})
    assert [job_id for job_id, _ in await key.store.turns()] == ids[2:]
    assert [job_of(await key.claim(job_id)) for job_id in ids[2:]] == ids[2:]
    await redis.zadd("{sightline}:holding", {key.id: 1})
    assert await key.store.turns() == []
    assert await redis.zcard("{sightline}:holding") == 0


async def test_chats_of_a_key_go_before_its_batches(key: Key) -> None:
    ids = [await key.submit(priority=priority) for priority in [Priority.BULK] * 3 + [Priority.DEFAULT, Priority.INTERACTIVE]]
    claims = [await key.claim(job_id) for job_id in ids]
    await key.end(claims[0])
    assert job_of(await key.turn()) == ids[4]
    await key.end(claims[1])
    chat = await key.turn()
    assert job_of(chat) == ids[3]
    await key.end(chat)

    assert await key.turn(bulk=False) == ids[2]  # its doorbell is rung: it may not have a chat's place
    assert job_of(await key.turn(bulk=True)) == ids[2]


async def test_a_repeated_call_gets_the_turn_that_it_got(key: Key) -> None:
    ids = [await key.submit() for _ in range(5)]
    claims = [await key.claim(job_id) for job_id in ids]
    await key.end(claims[0])
    await key.end(claims[1])
    newest = await key.submit()

    swapped = [await key.claim(newest, token="one") for _ in range(2)]
    taken = [await key.turn(token="two") for _ in range(2)]

    assert [job_of(claim) for claim in [*swapped, *taken]] == [ids[2], ids[2], ids[3], ids[3]]
    assert [claim.attempt for claim in [*swapped, *taken] if isinstance(claim, Claim)] == [1] * 4
    assert await key.running() == 2
