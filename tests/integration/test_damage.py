"""A record that is damaged, or of another version, hurts nobody else: it is set aside, told of in the log, and met no more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from shared.aio import cancel_all
from shared.errors import CancelledByClient
from shared.jobs import JobStatus, Stage
from shared.settings import Settings
from shared.store.connection import connect
from shared.store.endpoints import Endpoints
from shared.store.jobs import JobStore
from shared.store.uploads import Uploads
from shared.store.workers import WorkerRegistry
from tests.claims import next_claims
from tests.integration.conftest import Site, until
from tests.integration.test_job_store import OUTPUT, Records
from tests.media import picture
from worker.webhooks.sender import Sender

HOOK = {"url": "https://example.com/hook"}
#: What may be wrong with a record: fields that are missing (None) or odd; a whole record that is of another kind.
ODD: list[dict[str, str | None] | str] = [
    *({name: None} for name in ("owner", "created_ms", "attempt", "fence", "request", "status", "class", "metadata")),
    *({name: None} for name in ("start_deadline_s", "run_timeout_s", "result_ttl_s", "events", "rings")),
    *({name: "x"} for name in ("created_ms", "attempt", "fence", "request", "status", "class", "metadata", "stage")),
    *(
        {name: "x"}
        for name in ("start_deadline_s", "run_timeout_s", "result_ttl_s", "events", "rings", "engine_deaths", "said")
    ),
    {"request": '{"later": 1}'},
    {"request": "[" * 100_000},
    {"metadata": "[" * 100_000},
    {"webhook_target": None},
    "string",
    "list",
    "gone",
]


@pytest.fixture
def records(store: JobStore, settings: Settings) -> Records:
    return Records(store, settings)


async def damage(redis: Redis, key: str, odd: dict[str, str | None] | str) -> None:
    """Make a record odd, and let its time come in every index."""
    if isinstance(odd, str):
        await redis.delete(key)
        if odd == "string":
            await redis.set(key, "x")
        if odd == "list":
            await redis.rpush(key, "x")  # type: ignore[misc]
        return
    for name, value in odd.items():
        await (redis.hdel(key, name) if value is None else redis.hset(key, name, value))  # type: ignore[misc]


@pytest.mark.parametrize("state", ["queued", "late", "running", "dead"])
async def test_a_damaged_job_hurts_no_other(records: Records, state: str, gateway: httpx.AsyncClient) -> None:
    for odd in ODD:
        try:
            await _hurts_no_other(records, odd, state, gateway)
        except BaseException as error:
            error.add_note(f"the record: {str(odd)[:60]}")
            raise


async def _hurts_no_other(records: Records, odd: dict[str, str | None] | str, state: str, gateway: httpx.AsyncClient) -> None:
    store, redis = records.store, records.redis
    bad, good = await records.submit(webhook=HOOK, owner="local"), await records.submit(webhook=HOOK, owner="local")
    claims = await next_claims(store, 2, worker="w1") if state in {"running", "dead"} else []
    await damage(redis, f"sightline:{{sightline}}:job:{bad}", odd)
    if state == "late":
        await redis.zadd("sightline:{sightline}:deadlines", {bad: 1}, xx=True)

    if claims:
        await store.set_stages("w1", [(claim, Stage.DECODING) for claim in claims])
        assert (await store.beat("w1", claims, lease_s=60)).lost == []
        assert (await store.get(good)).stage is Stage.DECODING
    for _ in range(2):
        await store.fail_overdue()
        if state == "running":
            await redis.zadd("sightline:{sightline}:workers", {"w1": 1}, xx=True)
        await store.rescue(records.settings, dead=["w1"] if state == "dead" else [])

    claimed = await next_claims(store, 9, worker="w2")
    assert [claim.job_id for claim in claimed if claim.job_id != bad] == [good]
    for claim in claimed:
        assert await records.end(claim, OUTPUT)
    assert await next_claims(store, 9, worker="w2") == []
    lists = [key async for key in redis.scan_iter(match="sightline:{sightline}:*")]
    lists = [key for key in lists if key.split(":")[1] in {"q", "ready", "held", "delayed", "deadlines", "workers"}]
    assert set(lists) <= {"sightline:{sightline}:workers"}
    assert (await store.counts())["queued"] == 0
    if isinstance(odd, dict) and "owner" in odd and state == "late":
        await redis.hset("sightline:{sightline}:owner:local", "queued", 0)  # type: ignore[misc]  # nothing tells whose it was
    else:
        assert await redis.hmget("sightline:{sightline}:owner:local", ["queued", "running"]) == ["0", "0"]  # type: ignore[misc]
    await redis.zadd("sightline:{sightline}:retained", {f"{bad} local": 1})
    page = (await gateway.get("/v1/jobs")).json()
    assert good in [job["id"] for job in page["data"]]
    answer = await gateway.get(f"/v1/jobs/{bad}")
    assert answer.status_code in {200, 404, 410, 500}
    if answer.status_code == 500:
        assert answer.json()["error"]["code"] == "record_unreadable"
    else:
        assert answer.status_code in {404, 410} or JobStatus(answer.json()["status"]).is_final
    await gateway.post(f"/v1/jobs/{bad}/cancel")
    assert await store.purge_expired_jobs() == [bad]
    assert await store.purge_expired_jobs() == []


@pytest.mark.parametrize("state", ["queued", "late", "running", "first"])
async def test_a_damaged_job_holds_no_group_open(records: Records, state: str, gateway: httpx.AsyncClient) -> None:
    for n, odd in enumerate([*ODD, {"group": None}, {"started_ms": "x"}, {"owner": None, "group": None}]):
        try:
            await _holds_no_group_open(records, odd, state, gateway, f"g{n}")
        except BaseException as error:
            error.add_note(f"the record: {str(odd)[:60]}")
            raise


async def _holds_no_group_open(
    records: Records, odd: dict[str, str | None] | str, state: str, gateway: httpx.AsyncClient, group: str
) -> None:
    store, redis = records.store, records.redis
    ids = [await records.submit(owner="local", group=group) for _ in range(2)]
    bad = ids[0 if state == "first" else 1]  # first: it is taken up, and set aside, before the good one ends
    await gateway.post(f"/v1/groups/{group}", json={"webhook": HOOK})
    claims = await next_claims(store, 2, worker="w1") if state == "running" else []
    await damage(redis, f"sightline:{{sightline}}:job:{bad}", odd)
    if state == "late":
        await redis.zadd("sightline:{sightline}:deadlines", {bad: 1}, xx=True)
        await store.fail_overdue()
    if claims:
        await store.rescue(records.settings, dead=["w1"])
    for claim in [one for _ in ids for one in await next_claims(store, 1, worker="w2")]:
        assert await records.end(claim, OUTPUT)

    told = (await gateway.get(f"/v1/groups/{group}")).json()
    assert (told["counts"]["queued"], told["counts"]["running"], told["left_s"]) == (0, 0, 0)
    assert told["counts"]["succeeded"] >= 1
    assert await redis.zrange(f"sightline:{{sightline}}:jobs:local {group}", 0, -1) == []
    again = (await gateway.get(f"/v1/groups/{group}")).json()
    assert again["webhook"] is None
    ended = [key async for key in redis.scan_iter(match="sightline:{sightline}:delivery:*_group")]
    assert [await redis.hget(key, "type") for key in ended] == ["group.ended"]  # type: ignore[misc]
    await redis.delete(*ended)


async def test_a_damaged_owner_holds_no_group_open(records: Records, redis: Redis, gateway: httpx.AsyncClient) -> None:
    bad = await records.submit(owner="local", group="g")
    await gateway.post("/v1/groups/g", json={"webhook": HOOK})
    await damage(redis, "sightline:{sightline}:owner:local", "string")
    await redis.zadd("sightline:{sightline}:deadlines", {bad: 1}, xx=True)

    await records.store.fail_overdue()

    assert [key async for key in redis.scan_iter(match="sightline:{sightline}:delivery:*_group")]
    await redis.delete("sightline:{sightline}:owner:local")
    told = (await gateway.get("/v1/groups/g")).json()
    assert (told["counts"]["queued"], told["counts"]["failed"], told["webhook"]) == (0, 1, None)
    assert [job["id"] for job in (await gateway.get("/v1/jobs?status=failed")).json()["data"]] == [bad]


async def test_damage_is_told_in_the_log(records: Records) -> None:
    bad = await records.submit()
    await damage(records.redis, f"sightline:{{sightline}}:job:{bad}", {"created_ms": "x"})

    with capture_logs() as logs:
        assert await next_claims(records.store) == []

    assert [(line["event"], line["record"]) for line in logs] == [("record.set_aside", bad)]
    job = await records.redis.hgetall(f"sightline:{{sightline}}:job:{bad}")  # type: ignore[misc]
    assert (job["status"], json.loads(job["error"])["code"]) == ("failed", "record_unreadable")


async def test_what_redis_refuses_is_no_damage(records: Records, redis: Redis, settings: Settings) -> None:
    """A user without the right to a command must not set aside every job there is."""
    job_id = await records.submit()
    await redis.acl_setuser("poor", enabled=True, passwords=["+x"], keys=["*"], channels=["*"], commands=["+@all", "-hset"])
    try:
        host = settings.redis_url.partition("//")[2]
        async with connect(settings.model_copy(update={"redis_url": f"redis://poor:x@{host}"})) as poor:
            with pytest.raises(Exception, match=r"(?i)permission|acl"):
                await next_claims(JobStore(poor))
    finally:
        await redis.acl_deluser("poor")

    assert await records.status(job_id) == "queued"


async def test_entries_that_name_no_job_are_purged_once(records: Records, redis: Redis) -> None:
    await redis.zadd("sightline:{sightline}:retained", {"garbage": 1, "": 2, " ": 3, "a b": 4})

    assert await records.store.purge_expired_jobs() == ["a"]
    assert await redis.zcard("sightline:{sightline}:retained") == 0


async def test_a_damaged_endpoint_stops_no_jobs_end(records: Records, redis: Redis, gateway: httpx.AsyncClient) -> None:
    body = {"url": "http://127.0.0.1/hook", "event_types": ["job.succeeded"]}
    bad, good = [(await gateway.post("/v1/webhook_endpoints", json=body)).json()["id"] for _ in range(2)]
    await damage(redis, f"sightline:{{sightline}}:endpoint:{bad}", "string")

    assert await records.end(await records.claim(await records.submit(owner="local")), OUTPUT)

    assert await redis.zcard(f"sightline:{{sightline}}:due:{good}") == 1
    listed = (await gateway.get("/v1/webhook_endpoints")).json()
    assert [endpoint["id"] for endpoint in listed["data"]] == [good]
    assert (await gateway.get(f"/v1/webhook_endpoints/{bad}")).json()["error"]["code"] == "record_unreadable"
    assert (await gateway.post("/v1/webhook_endpoints", json=body)).is_success


@pytest.fixture
async def sender(settings: Settings) -> AsyncIterator[Sender]:
    sender = Sender(settings)
    serving = asyncio.create_task(sender.serve())
    yield sender
    await cancel_all({serving})


async def _queue_is_a_string(redis: Redis) -> None:
    await redis.set("sightline:{sightline}:due:x", "y")
    await redis.zadd("sightline:{sightline}:due", {"x": 1})


async def _target_is_a_string(redis: Redis) -> None:
    await redis.set("sightline:{sightline}:target:x", "y")
    await redis.zadd("sightline:{sightline}:due:x", {"evt_1": 1})
    await redis.zadd("sightline:{sightline}:due", {"x": 1})


def _delivery(odd: dict[str, Any] | str) -> Callable[[Redis], Awaitable[None]]:
    async def make(redis: Redis) -> None:
        await redis.zadd("sightline:{sightline}:due:x", {"evt_1": 1})
        await redis.zadd("sightline:{sightline}:due", {"x": 1})
        facts = {
            "state": "pending",
            "attempt": 0,
            "target": "x",
            "job": "job_1",
            "at_ms": 1,
            "type": "job.failed",
            "event": "evt_1",
        }
        facts |= {"url": "http://127.0.0.1:1/", "payload": "full"}
        await redis.hset("sightline:{sightline}:delivery:evt_1", mapping=facts)  # type: ignore[misc]
        await damage(redis, "sightline:{sightline}:delivery:evt_1", odd)

    return make


MAKERS = [
    _queue_is_a_string,
    _target_is_a_string,
    *(_delivery({name: None}) for name in ("attempt", "target", "job", "at_ms", "type", "event", "url", "payload", "state")),
    *(_delivery({name: "x"}) for name in ("attempt", "target", "job", "at_ms", "type", "url", "payload", "state", "endpoint")),
    _delivery("string"),
    _delivery("gone"),
]


async def test_a_damaged_delivery_keeps_no_other_from_its_receiver(
    records: Records, sender: Sender, site: Site, redis: Redis
) -> None:
    assert sender is not None
    for n, make in enumerate(MAKERS, 1):
        await make(redis)
        await records.end(await records.claim(await records.submit(webhook={"url": site.url})), OUTPUT)
        await until(partial(_is_done, redis, site, n))
        await redis.delete(
            "sightline:{sightline}:due:x", "sightline:{sightline}:target:x", "sightline:{sightline}:delivery:evt_1"
        )
        await redis.zrem("sightline:{sightline}:due", "x")


async def _is_done(redis: Redis, site: Site, n: int) -> bool:
    """Say whether the good one has come, and the odd one is set aside, or waits for another attempt."""
    due = await redis.zscore("sightline:{sightline}:due", "x")
    return len(site.asked) == n and (due is None or due > 1e12)


async def test_a_response_whose_record_is_damaged_is_told_of_all_the_same(
    records: Records, sender: Sender, site: Site, redis: Redis
) -> None:
    assert sender is not None
    bad = await records.submit(webhook={"url": site.url})
    await redis.hset(f"sightline:{{sightline}}:job:{bad}", "metadata", "{garbage")  # type: ignore[misc]

    await records.store.cancel(bad, CancelledByClient())

    await until(lambda: _asked(site))
    told = json.loads(site.asked[0].body)["data"]
    assert (told["id"], told["status"], told["output_omitted"]) == (bad, "cancelled", True)


async def _asked(site: Site) -> bool:
    return bool(site.asked)


async def test_recovery_passes_over_what_is_no_event(records: Records, redis: Redis, gateway: httpx.AsyncClient) -> None:
    endpoints, given = Endpoints(records.store.redis), {"owner": "local", "name": "x", "url": "http://127.0.0.1/"}
    await endpoints.create(**given, events=["job.succeeded"], payload="full")
    assert await records.end(await records.claim(await records.submit(owner="local")), OUTPUT)
    await redis.xadd("sightline:{sightline}:feed:local", {"odd": "entry"})
    await redis.xadd(
        "sightline:{sightline}:feed:local", {"type": "job.succeeded", "event": "evt_x", "job": "job_x", "n": "x", "at_ms": "x"}
    )
    endpoint = await endpoints.create(**given, events=["job.succeeded"], payload="full")

    answer = await gateway.post(f"/v1/webhook_endpoints/{endpoint.id}/recover", json={"since": 0})

    assert answer.json()["deliveries"] >= 1


@pytest.mark.parametrize("name", ["owner:odd", "q:default:qwen-vl:odd"])
async def test_a_damaged_owner_stands_before_no_other(records: Records, redis: Redis, name: str) -> None:
    good = await records.submit(owner="local")
    await redis.set(f"sightline:{{sightline}}:{name}", "x")
    await redis.zadd("sightline:{sightline}:ready:default:qwen-vl", {"odd": -1})

    with capture_logs() as logs:
        claims = await next_claims(records.store, 2)

    assert [claim.job_id for claim in claims] == [good]
    assert [line["record"] for line in logs] == ["owner:odd"]
    assert await next_claims(records.store) == []


async def test_a_damaged_book_of_a_dead_worker_keeps_no_jobs_of_others(records: Records, redis: Redis) -> None:
    good = await records.submit()
    await next_claims(records.store, worker="w1")
    await redis.set("sightline:{sightline}:held:odd", "x")
    await redis.zadd("sightline:{sightline}:workers", {"odd": 1, "w1": 2})

    for dead in ([], ["odd"]):
        await records.store.rescue(records.settings, dead=dead)

    assert [claim.job_id for claim in await next_claims(records.store, worker="w2")] == [good]
    assert not await redis.exists("sightline:{sightline}:held:odd")
    assert (await records.store.counts())["running"] == 1


async def test_a_damaged_book_of_a_living_worker_hides_no_jobs(redis: Redis, gateway: httpx.AsyncClient) -> None:
    await redis.set("sightline:{sightline}:held:odd", "x")
    await redis.zadd("sightline:{sightline}:workers", {"odd": 9e12})

    for path in ("/v1/queue", "/v1/jobs", "/v1/jobs?status=running", "/v1/jobs?counts=true", "/metrics"):
        assert (await gateway.get(path)).status_code == 200, path


@pytest.mark.parametrize(
    "notice", ["{garbage", "[1]", '"x"', "{}", '{"later": 1}', '{"name": 1, "phase": "ready"}', "[" * 100_000]
)
async def test_a_damaged_notice_hides_no_worker(
    records: Records, redis: Redis, gateway: httpx.AsyncClient, notice: str
) -> None:
    """That of a worker of another version does not, either: while versions are changed both kinds stand there."""
    await WorkerRegistry(records.store.redis).heartbeat("w1", {"name": "host:1-w1", "phase": "ready"}, ttl_s=60)
    await redis.set("sightline:{sightline}:worker:odd", notice)

    for path in ("/v1/workers", "/v1/models", "/readyz", "/metrics", "/v1/queue"):
        assert (await gateway.get(path)).status_code == 200, path
    assert [worker["id"] for worker in (await gateway.get("/v1/workers")).json()["data"]] == ["worker_w1"]


async def test_a_damaged_upload_hurts_no_other(redis: Redis, gateway: httpx.AsyncClient, settings: Settings) -> None:
    good = (await gateway.post("/v1/files", files={"file": ("a.png", picture())})).json()["id"]
    for n, kind in enumerate(("hash", "string", "gone")):
        bad = f"file-{n}"
        if kind == "hash":
            await redis.hset(f"sightline:{{sightline}}:upload:{bad}", mapping={"id": bad, "owner": "local"})  # type: ignore[misc]
        elif kind == "string":
            await redis.set(f"sightline:{{sightline}}:upload:{bad}", "x")
        await redis.zadd("sightline:{sightline}:uploads:local", {bad: 9e12})
        await redis.zadd("sightline:{sightline}:uploads_due", {bad: 1})
    await redis.set("sightline:{sightline}:batch:odd", "x")
    await redis.sadd("sightline:{sightline}:batches_open:local", "odd")  # type: ignore[misc]

    listed = (await gateway.get("/v1/files")).json()
    assert [upload["id"] for upload in listed["data"]] == [good]
    async with connect(settings) as client:
        due = await Uploads(client).take_due()
        await Uploads(client).forget(*due)
    assert await redis.zrange("sightline:{sightline}:uploads_due", 0, -1) == [good]
    assert (await gateway.delete(f"/v1/files/{good}")).status_code == 200
