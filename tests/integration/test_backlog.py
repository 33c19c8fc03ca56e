"""Deliveries that pile up: bounded for an owner and for a host, dropped bit by bit, kept as long as their job, counted once."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from shared.errors import CancelledByClient, EngineFailed, NotFound, TooManyEndpoints
from shared.jobs import JobStatus
from shared.settings import Settings
from shared.store.connection import connect
from shared.store.deliveries import Delivery, Outcome
from shared.store.endpoints import MAX_AT_HOST, Endpoints
from shared.store.jobs import JobStore
from shared.store.outbox import PIECE, Outbox
from tests.claims import claim_job, next_claims
from tests.integration.test_job_store import OUTPUT, Records

HOOK = {"url": "https://example.com/hook"}
ENDS = ["job.running", "job.succeeded"]
LIMITS: dict[str, Any] = {"limit": 10, "most": 4, "lease_s": 60, "open_after": 5}


@pytest.fixture
def records(store: JobStore, settings: Settings) -> Records:
    return Records(store, settings)


@pytest.fixture
def endpoints(store: JobStore) -> Endpoints:
    return Endpoints(store.redis)


async def register(endpoints: Endpoints, url: str = "https://example.com/hook") -> str:
    return (await endpoints.create(owner="me", name="x", url=url, events=["job.succeeded"], payload="full")).id


async def end_job(records: Records, **given: Any) -> str:
    job_id = await records.submit(**given)
    assert await records.end(await records.claim(job_id), OUTPUT)
    return job_id


async def n_due(redis: Redis) -> int:
    """Count what is due to an owner; the number that is kept must be that of the entries."""
    kept = int(await redis.hget("sightline:{sightline}:due_of", "me") or 0)  # type: ignore[misc]
    entries = [await redis.zcard(key) async for key in redis.scan_iter(match="sightline:{sightline}:due:*")]
    assert kept == sum(entries)
    return kept


# --- bounds ---


async def test_one_host_has_few_endpoints(endpoints: Endpoints) -> None:
    for n in range(MAX_AT_HOST):
        last = await register(endpoints, f"https://example.com:{443 + n}/{n}")
    for url in ("https://EXAMPLE.com./", "http://example.com/another"):
        with pytest.raises(TooManyEndpoints, match=r"example\.com"):
            await register(endpoints, url)
    other = await register(endpoints, "https://example.org")

    with pytest.raises(TooManyEndpoints):
        await endpoints.update(other, owner="me", enable=False, url="https://example.com/moved")
    await endpoints.update(last, owner="me", enable=False, url="https://example.com/moved")
    await endpoints.delete(last, owner="me")
    assert (await endpoints.update(other, owner="me", enable=False, url="https://example.com/")).url == "https://example.com/"


async def test_beyond_an_owners_backlog_deliveries_are_discarded_and_told_of(settings: Settings, redis: Redis) -> None:
    async with connect(settings.model_copy(update={"webhook_backlog": 2})) as client:
        records = Records(JobStore(client), settings)
        ids = [await end_job(records, webhook={"url": f"https://{n}.example.com"}) for n in range(4)]
        theirs = await end_job(records, webhook=HOOK, owner="somebody else")

        told = [(await records.outbox.of_job(job_id))[0] for job_id in [*ids, theirs]]
        assert [(one["status"], one["reason"]) for one in told] == [
            *[("pending", None)] * 2,
            *[("discarded", "backlog_full")] * 2,
            ("pending", None),
        ]
        assert await redis.hgetall("sightline:{sightline}:due_of") == {"me": "2", "somebody else": "1"}  # type: ignore[misc]
        for delivery in await records.due():
            await records.settle(delivery, "delivered", log={"code": 204})
        await records.outbox.redeliver(ids[3])
        assert [delivery.job_id for delivery in await records.due()] == [ids[3]]


@pytest.mark.parametrize("end", ["delivered", "given_up", "redelivered", "gone"])
async def test_what_is_due_to_an_owner_is_counted_to_the_last(records: Records, redis: Redis, end: str) -> None:
    job_id = await end_job(records, webhook=HOOK)
    assert await n_due(redis) == 1
    if end == "gone":
        await redis.delete(f"sightline:{{sightline}}:delivery:evt_{job_id.removeprefix('job_')}")
        await records.due()
    else:
        (delivery,) = await records.due()
        await records.settle(delivery, "delivered" if end == "delivered" else "given_up", log={})
    if end == "redelivered":
        await records.outbox.redeliver(job_id)
        await records.outbox.redeliver(job_id)
        assert await n_due(redis) == 1
        await records.settle((await records.due())[0], "delivered", log={})

    assert await n_due(redis) == 0
    assert await redis.hgetall("sightline:{sightline}:due_of") == {"me": "0"}  # type: ignore[misc]


# --- endpoints that go off ---


async def pile_up(redis: Redis, endpoint: str, n: int) -> None:
    ids = [f"evt_{i:032x}:{endpoint}" for i in range(n)]
    pipe = redis.pipeline(transaction=False)
    pipe.zadd(f"sightline:{{sightline}}:due:{endpoint}", dict.fromkeys(ids, 1))
    for delivery in ids:
        facts = {"state": "pending", "target": endpoint, "type": "job.failed"}
        facts |= {"attempt": "0", "at_ms": "1"}
        pipe.hset(f"sightline:{{sightline}}:delivery:{delivery}", mapping=facts)
    pipe.zadd("sightline:{sightline}:due", {endpoint: 1})
    pipe.hset("sightline:{sightline}:due_of", "me", n)
    await pipe.execute()


@pytest.mark.parametrize("how", ["delete", "disable"])
async def test_an_endpoint_goes_off_at_once_and_its_deliveries_bit_by_bit(
    records: Records, endpoints: Endpoints, redis: Redis, how: str
) -> None:
    """As few commands whatever is due; one script of a million would let Redis stand still for seconds."""
    endpoint = await register(endpoints)
    await pile_up(redis, endpoint, 3 * PIECE)
    (taken,) = (await records.outbox.take("sender", limit=1, most=1, lease_s=60, open_after=5)).deliveries
    await redis.config_resetstat()
    if how == "delete":
        await endpoints.delete(endpoint, owner="me")
    else:
        await records.settle(taken, "disabled", log={}, reason="gone")
    assert await n_commands(redis) < 60
    assert await records.targets() == []
    assert await n_due(redis) == 0

    n = 0
    await redis.config_resetstat()
    while await records.outbox.discard_some():
        assert await n_commands(redis) < 5 * PIECE
        await redis.config_resetstat()
        n += 1
    assert n >= 3
    states = [await redis.hget(f"sightline:{{sightline}}:delivery:evt_{i:032x}:{endpoint}", "state") for i in range(3 * PIECE)]  # type: ignore[misc]
    assert set(states) == {"given_up"}
    assert [key async for key in redis.scan_iter(match="sightline:{sightline}:drop*")] == []


async def n_commands(redis: Redis) -> int:
    stats = await redis.info("commandstats")
    return sum(facts["calls"] for name, facts in stats.items() if name not in {"cmdstat_info", "cmdstat_config|resetstat"})


async def test_what_is_due_anew_is_not_given_up_with_the_old(records: Records, endpoints: Endpoints, redis: Redis) -> None:
    endpoint = await register(endpoints)
    job_id = await end_job(records)
    (delivery,) = await records.due()
    await records.settle(delivery, "disabled", log={}, reason="410")
    assert (await records.outbox.of_job(job_id))[0]["status"] == "given_up"

    await endpoints.update(endpoint, owner="me", enable=True)
    assert await records.outbox.recover(endpoint, since=0) == 1
    while await records.outbox.discard_some():
        pass

    assert (await records.outbox.of_job(job_id))[0]["status"] == "pending"
    assert await n_due(redis) == 1
    assert [due.job_id for due in await records.due()] == [job_id]


async def test_recovery_goes_over_the_whole_feed_in_pieces(records: Records, endpoints: Endpoints) -> None:
    await end_job(records)  # nobody has an endpoint, or reads the feed
    await register(endpoints)
    ids = [await end_job(records) for _ in range(PIECE // 2 + 5)]
    second = await register(endpoints)

    assert await records.outbox.recover(second, since=0) == len(ids)


async def test_the_feed_is_written_as_long_as_there_is_an_endpoint(
    endpoints: Endpoints, records: Records, redis: Redis
) -> None:
    first, second = await register(endpoints), await register(endpoints)
    for endpoint, is_written in ((first, True), (first, True), (second, False)):
        with suppress(NotFound):  # the second call counts nothing down
            await endpoints.delete(endpoint, owner="me")
        await redis.delete("sightline:{sightline}:feed:me")
        await end_job(records)

        assert await redis.exists("sightline:{sightline}:feed:me") == is_written


# --- how long they are kept ---


@pytest.mark.parametrize("kind", ["job.running", "job.succeeded"])
async def test_what_was_delivered_is_kept_as_long_as_its_job(records: Records, redis: Redis, kind: str) -> None:
    job_id = await records.submit(webhook=HOOK | {"events": [kind]}, result_ttl_s=100)
    claim = await records.claim(job_id)
    if kind == "job.succeeded":
        await records.end(claim, OUTPUT)
    (delivery,) = await records.due()
    key = f"sightline:{{sightline}}:delivery:{delivery.id}"
    await records.settle(delivery, "retry", log={})
    assert await redis.ttl(key) == -1  # it may be due for days
    (delivery,) = await records.due()
    await records.settle(delivery, "delivered", log={})
    if kind == "job.running":
        await records.end(claim, OUTPUT)

    assert 90 < await redis.ttl(key) <= 101


async def test_what_was_delivered_for_a_job_that_is_gone_is_not_delivered_again(
    records: Records, endpoints: Endpoints, redis: Redis
) -> None:
    endpoint = await register(endpoints)
    taken, missed = await end_job(records), await end_job(records)
    await redis.hset(f"sightline:{{sightline}}:endpoint:{endpoint}", "updated_ms", 1)  # type: ignore[misc]
    for delivery in await records.due():
        verdict = "delivered" if delivery.job_id == taken else "given_up"
        await records.settle(delivery, verdict, log={})  # type: ignore[arg-type]
    await redis.delete(*(f"sightline:{{sightline}}:job:{job_id}" for job_id in (taken, missed)))
    await redis.delete(f"sightline:{{sightline}}:delivery:evt_{taken.removeprefix('job_')}:{endpoint}")  # it went with its job

    assert await records.outbox.recover(endpoint, since=0) == 1
    assert [due.job_id for due in await records.due()] == [missed]


# --- calls whose reply was lost ---


class Twice(Outbox):
    """Sends every call twice, as a client does whose reply was lost."""

    async def _run(self, name: str, *args: str | float) -> Any:
        await super()._run(name, *args)
        return await super()._run(name, *args)


class TwiceStore(JobStore):
    """Sends every call twice."""

    async def _run(self, name: str, *args: str | float) -> Any:
        await super()._run(name, *args)
        return await super()._run(name, *args)


async def test_a_delivery_is_charged_once_for_a_call_sent_twice(records: Records, redis: Redis) -> None:
    await end_job(records, webhook=HOOK)
    outbox = Twice(records.store.redis)
    (target,) = await records.targets()

    (delivery,) = (await outbox.take("sender", **LIMITS)).deliveries
    await outbox.settle([Outcome(delivery, "retry", {"code": 500})])

    assert delivery.attempt == 1
    (shown,) = await outbox.of_job(delivery.job_id)
    assert len(shown["attempts"]) == 1
    assert await redis.hget(f"sightline:{{sightline}}:target:{target}", "failures") == "1"  # type: ignore[misc]
    (again,) = (await outbox.take("sender", **LIMITS)).deliveries
    assert isinstance(again, Delivery)
    assert again.attempt == 2


async def test_a_target_that_failed_gets_its_one_trial_also_when_it_is_sent_twice(records: Records) -> None:
    await end_job(records, webhook=HOOK)
    outbox = Twice(records.store.redis)

    assert len((await outbox.take("sender", **LIMITS | {"open_after": 0})).deliveries) == 1


@pytest.mark.parametrize("status", [JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED])
async def test_an_end_sent_twice_counts_once_and_is_told_so(records: Records, status: JobStatus) -> None:
    store = TwiceStore(records.store.redis)
    await records.submit(webhook=HOOK)
    (claim,) = await next_claims(store)
    output = OUTPUT if status is JobStatus.SUCCEEDED else None
    error = {JobStatus.FAILED: EngineFailed(), JobStatus.CANCELLED: CancelledByClient()}.get(status)

    assert await store.complete(claim, status, output=output, error=error) is True

    assert (await records.store.counts())[status] == 1
    others = {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED} - {status}
    for other in others:
        assert await records.store.complete(claim, other, output=None, error=EngineFailed()) is False


async def test_a_job_handed_back_twice_is_told_so_and_charged_once(records: Records) -> None:
    store, job_id = TwiceStore(records.store.redis), await records.submit()
    for attempt in (1, 2):
        claim = await claim_job(store, job_id, worker="w", lease_s=60)
        assert claim is not None
        assert claim.attempt == attempt
        assert await store.release(claim, "retry") is True
        assert await records.store.release(claim, "leave") is True
    assert (await records.store.get(job_id)).attempt == 2
    stale = await records.claim(job_id)
    await records.expire_lease(job_id)
    await records.rescue(max_attempts=9)
    assert await records.store.release(stale, "retry") is False


# --- secrets ---


async def test_an_old_secret_signs_for_a_day_by_redis_clock(endpoints: Endpoints, redis: Redis) -> None:
    endpoint = await register(endpoints)
    before = await endpoints.get(endpoint)

    after = await endpoints.rotate(endpoint, owner="me", keep_old=True)

    assert after.secrets == [after.secret, before.secret]
    assert 86_000 < await redis.ttl(f"sightline:{{sightline}}:old_secret:{endpoint}") <= 86_400
    await redis.pexpire(f"sightline:{{sightline}}:old_secret:{endpoint}", 0)
    assert (await endpoints.get(endpoint)).secrets == [after.secret]
    await endpoints.rotate(endpoint, owner="me", keep_old=True)
    await endpoints.delete(endpoint, owner="me")
    assert not await redis.exists(f"sightline:{{sightline}}:old_secret:{endpoint}")


async def test_a_rotation_sent_twice_keeps_the_old_secret(store: JobStore, endpoints: Endpoints) -> None:
    class TwiceEndpoints(Endpoints):
        async def _run(self, name: str, *args: str | float) -> Any:
            await super()._run(name, *args)
            return await super()._run(name, *args)

    endpoint = await register(endpoints)
    before = await endpoints.get(endpoint)

    after = await TwiceEndpoints(store.redis).rotate(endpoint, owner="me", keep_old=True)

    assert after.secrets == [after.secret, before.secret]


# --- late jobs ---


async def test_late_jobs_fail_without_a_worker_and_everybody_hears_of_it(
    records: Records, redis: Redis, gateway: httpx.AsyncClient
) -> None:
    request = {"prompt": "x", "images": ["https://example.com/cat.png"], "start_deadline_s": 1, "webhook": HOOK}
    made = await gateway.post("/v1/jobs", json=request)
    waiting = [made.json()["id"], *[(await gateway.post("/v1/jobs", json=request)).json()["id"] for _ in range(99)]]
    await redis.zadd("sightline:{sightline}:deadlines", dict.fromkeys(waiting, 1), xx=True)

    answer = await gateway.get(f"/v1/jobs/{waiting[-1]}", params={"wait": 10})

    assert answer.json()["error"]["code"] == "start_deadline"
    assert (await records.store.counts())["failed"] == 100
    assert await redis.zcard("sightline:{sightline}:deadlines") == 0
    assert len(await records.due()) == 10
