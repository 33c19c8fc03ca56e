"""Many jobs at once: filters, counts, groups, cancel and retry of all that match, with another key's jobs beside them."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from shared.errors import EngineFailed, MediaUnreadable
from shared.jobs import JobRequest, Priority
from shared.messages import short_form
from shared.settings import Settings
from shared.store.ids import new_id
from shared.store.jobs import JobStore
from shared.store.key_names import PREFIX
from shared.store.outbox import Outbox
from shared.store.selection import MOST_LOOKS, Filter, Selection
from sightline.receiver import Receiver
from tests.claims import claim_job, next_claims
from tests.conftest import WEBHOOK_SECRET
from tests.integration.conftest import Worker, gateway_for, until
from tests.integration.test_job_store import OUTPUT, Records
from tests.integration.test_sender import sending
from tests.media import data_url, picture

PICTURE = "https://example.com/cat.png"


class Album:
    """Jobs of some owners, in every state."""

    def __init__(self, store: JobStore, settings: Settings) -> None:
        self.store, self.settings, self.selection = store, settings, Selection(store.redis)
        self.records = Records(store, settings)

    async def add(
        self, owner: str = "local", status: str = "queued", priority: Priority = Priority.DEFAULT, **given: Any
    ) -> str:
        prompt = given.pop("prompt", "what is it?")
        request = JobRequest.model_validate({"messages": short_form(prompt, [PICTURE]), **given})
        job_id, _ = await self.store.submit(request, self.settings, owner=owner, job_id=new_id("job"), priority=priority)
        if status == "cancelled":
            await self.store.cancel(job_id, EngineFailed())
        elif status != "queued":
            claim = await claim_job(self.store, job_id, model=request.model or self.settings.served_model_name)
            assert claim
            if status != "running":
                assert await self.records.end(claim, OUTPUT if status == "succeeded" else MediaUnreadable())
        return job_id

    async def found(self, wanted: Filter, owner: str = "local") -> list[str]:
        return [job_id async for ids in self.selection.pages(owner, wanted) for job_id in ids]


@pytest.fixture
def album(store: JobStore, settings: Settings) -> Album:
    return Album(store, settings)


async def listed(gateway: httpx.AsyncClient, **query: Any) -> list[str]:
    """Go through all pages of three."""
    ids: list[str] = []
    after: dict[str, str] = {}
    while True:
        answer = (await gateway.get("/v1/jobs", params={"limit": 3, **query, **after})).json()
        ids += [job["id"] for job in answer["data"]]
        if not answer["has_more"]:
            return ids
        after = {"after": answer["last_id"]}


# --- lists ---


async def test_every_filter_gives_what_fits_and_nothing_else(gateway: httpx.AsyncClient, album: Album) -> None:
    states = ["queued", "running", "succeeded", "failed", "cancelled"]
    ids = {state: [await album.add(status=state) for _ in range(4)] for state in states * 2}
    both = [await album.add(group="夏天", priority=Priority.BULK), await album.add(group="夏天", status="failed")]
    other = await album.add(model="other-model", prompt="数一数 Red/Blue 球", metadata={"album": "Öl & Wasser"})
    for state in states:
        await album.add("somebody", state, group="夏天")

    for state in states:
        own = {*ids[state], *([both[0], other] if state == "queued" else [both[1]] if state == "failed" else [])}
        got = await listed(gateway, status=state)
        assert (set(got) >= own, got) == (True, sorted(got, reverse=True))
        assert len(got) == 8 + len(own) - 4
    open_ones = await listed(gateway, status="queued"), await listed(gateway, status="running")
    assert await listed(gateway, status="queued,running") == sorted([*open_ones[0], *open_ones[1]], reverse=True)
    assert await listed(gateway, group="夏天") == both[::-1]
    assert await listed(gateway, **{"class": "bulk"}) == [both[0]]
    assert await listed(gateway, model="other-model") == [other]
    assert len(await listed(gateway, code="media_unreadable")) == 9
    assert await listed(gateway, q="red/blue 球") == await listed(gateway, q="öl & wasser".replace("ö", "Ö")) == [other]
    assert await listed(gateway, q="image_url") == []  # a word of ours, not of the client's
    assert await listed(gateway, ids=",".join([both[0], other, new_id("job")])) == [both[0], other]
    assert len(await listed(gateway)) == 43


async def test_times_are_taken_in_seconds_and_in_iso_8601(gateway: httpx.AsyncClient, album: Album, redis: Redis) -> None:
    ids = [await album.add() for _ in range(5)]
    for n, job_id in enumerate(ids):
        await redis.zadd("sightline:{sightline}:q:default:qwen-vl:local", {job_id: 1_700_000_000_000 + 1000 * n})

    assert await listed(gateway, since=1_700_000_001, until=1_700_000_003) == ids[1:4][::-1]
    assert await listed(gateway, since="2023-11-14T22:13:21Z", until="2023-11-14T23:13:23+01:00") == ids[1:4][::-1]
    counted = (await gateway.get("/v1/jobs", params={"since": 1_700_000_003, "counts": "true"})).json()["counts"]
    assert counted == {"queued": 2, "running": 0, "succeeded": 0, "failed": 0, "cancelled": 0}


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"status": "done"}, "status"),
        ({"class": "urgent"}, "class"),
        ({"since": "yesterday"}, "since"),
        ({"since": 5, "until": 4}, "since"),
        ({"q": ""}, "q"),
        ({"q": "x", "counts": "true"}, "counts"),
        ({"ids": ",".join(["x"] * 201)}, "ids"),
        ({"ids": "x", "group": "y"}, "ids"),
        ({"group": "a/b"}, "group"),
        ({"stauts": "failed"}, "stauts"),
        ({"priority": "bulk"}, "priority"),
    ],
)
async def test_a_wrong_filter_is_refused_by_its_name(gateway: httpx.AsyncClient, query: dict[str, Any], param: str) -> None:
    answer = await gateway.get("/v1/jobs", params=query)

    assert answer.status_code == 400
    assert param in str(answer.json()["error"]["param"] or answer.json()["error"]["message"])


@pytest.mark.parametrize("wrong", [{"ids": [1]}, {"status": [[]]}, {"status": {"a": 1}}, {"ids": [None]}])
async def test_a_filter_of_the_wrong_kind_is_refused(gateway: httpx.AsyncClient, wrong: dict[str, Any]) -> None:
    for path in ("/v1/jobs/cancel", "/v1/jobs/retry"):
        answer = await gateway.post(path, json={"filter": wrong})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request"), path


async def test_a_page_that_looked_at_enough_goes_on(album: Album, redis: Redis) -> None:
    """Nobody's list of a million jobs stops Redis: a page looks at so many records, and says where to go on."""
    first = await album.add(prompt="needle")
    record = await redis.hgetall(f"sightline:{{sightline}}:job:{first}")  # type: ignore[misc]
    async with redis.pipeline(transaction=False) as pipe:
        for n in range(MOST_LOOKS + 10):
            other = new_id("job")
            made_ms = int(record["created_ms"]) + 1 + n
            hay = record | {"request": "{}", "metadata": '"hay"', "created_ms": made_ms}
            pipe.hset(f"sightline:{{sightline}}:job:{other}", mapping=hay)
            pipe.zadd("sightline:{sightline}:q:default:qwen-vl:local", {other: made_ms})
        await pipe.execute()

    page = await album.selection.page("local", Filter(words="needle"), limit=5)

    assert (page.ids, page.more) == ([], True)
    assert await album.found(Filter(words="needle")) == [first]
    assert len(await album.found(Filter())) == MOST_LOOKS + 11


async def test_a_page_looks_at_fewer_jobs_where_they_are_long(album: Album) -> None:
    long = "hay " * 16_000
    ids = [await album.add(prompt=long) for _ in range(MOST_LOOKS // 30)]

    page = await album.selection.page("local", Filter(words="needle"), limit=5)

    assert (page.ids, page.more) == ([], True)
    assert page.last in ids[1:]
    assert await album.found(Filter(words="needle")) == []


async def test_lists_go_on_after_jobs_from_before_redis_clock_went_back(
    gateway: httpx.AsyncClient, album: Album, redis: Redis
) -> None:
    """Their times are in the future then: a list that refused to go on there could not be read for as long."""
    ids = [await album.add(status=status) for status in ("queued", "cancelled", "succeeded", "queued")]
    hour_ms = 3_600_000
    for job_id in ids:
        await redis.hincrby(f"sightline:{{sightline}}:job:{job_id}", "created_ms", hour_ms)  # type: ignore[misc]
    for index in ("q:default:qwen-vl:local", "jobs.cancelled:local", "jobs.succeeded:local"):
        for job_id in await redis.zrange(f"sightline:{{sightline}}:{index}", 0, -1):
            await redis.zincrby(f"sightline:{{sightline}}:{index}", hour_ms, job_id)

    assert await listed(gateway, limit=1) == ids[::-1]


async def test_a_damaged_record_hides_nobody(gateway: httpx.AsyncClient, album: Album, redis: Redis) -> None:
    ids = [await album.add(prompt="x") for _ in range(3)]
    await redis.delete(f"sightline:{{sightline}}:job:{ids[1]}")
    await redis.set(f"sightline:{{sightline}}:job:{ids[1]}", "no hash")

    assert await listed(gateway, q="x") == [ids[2], ids[0]]
    assert await listed(gateway, status="queued") == [ids[2], ids[0]]


# --- groups ---


async def test_a_groups_counts_follow_every_move(gateway: httpx.AsyncClient, album: Album, settings: Settings) -> None:
    async def counts() -> dict[str, int]:
        told: dict[str, Any] = (await gateway.get("/v1/groups/a b")).json()
        return {state: n for state, n in told["counts"].items() if n}

    assert (await gateway.get("/v1/groups/a b")).status_code == 404
    ids = [await album.add(group="a b") for _ in range(6)]
    await album.add("somebody", group="a b")
    await album.add()
    assert await counts() == {"queued": 6}
    claims = [claim for job_id in ids[:4] if (claim := await claim_job(album.store, job_id))]
    assert await counts() == {"queued": 2, "running": 4}
    await album.store.release(claims[0], "retry")
    await album.records.end(claims[1], OUTPUT)
    await album.records.end(claims[2], EngineFailed())
    assert await counts() == {"queued": 3, "running": 1, "succeeded": 1, "failed": 1}
    told = (await gateway.get("/v1/groups/a b")).json()
    assert told["per_s"] > 0
    assert told["left_s"] > 0
    await album.store.redis.zadd("sightline:{sightline}:workers", {"w": 1})
    await album.store.rescue(settings)
    assert await counts() == {"queued": 4, "succeeded": 1, "failed": 1}


async def test_what_is_purged_leaves_its_group(album: Album, redis: Redis) -> None:
    ids = [await album.add(group="g", status=status, result_ttl_s=60) for status in ("succeeded", "failed", "cancelled")]
    for member in await redis.zrange("sightline:{sightline}:retained", 0, -1):
        await redis.zadd("sightline:{sightline}:retained", {member: 1})

    assert set(await album.store.purge_expired_jobs()) == set(ids)

    assert not [key async for key in redis.scan_iter(match="sightline:{sightline}:jobs*")]


async def test_the_end_of_a_group_is_told_once(settings: Settings, album: Album) -> None:
    with Receiver(WEBHOOK_SECRET) as receiver:
        async with gateway_for(settings) as gateway, sending(settings):
            for status in ("succeeded", "failed", "failed", *["queued"] * 20):
                await album.add(group="夏天", status=status)
            hook = {"webhook": {"url": receiver.url}}
            assert (await gateway.post("/v1/groups/夏天", json=hook)).json()["webhook"] == {"url": receiver.url}
            assert (await gateway.post("/v1/groups/nobody", json=hook)).status_code == 404
            body = {"filter": {"group": "夏天"}}
            assert (await gateway.post("/v1/jobs/cancel", json=body | {"dry_run": True})).json()["matched"] == 20
            assert (await gateway.post("/v1/jobs/cancel", json=body)).json()["done"] == 20
            assert await asyncio.to_thread(receiver.wait_for, {"夏天"}, timeout_s=20)
            await until(lambda: _has_nothing_due(album.store))

    (event,) = [delivery for delivery in receiver.received if delivery.type == "group.ended"]
    assert event.job == {"object": "group", "id": "夏天", "counts": {"succeeded": 1, "failed": 2, "cancelled": 20}}


async def _has_nothing_due(store: JobStore) -> bool:
    return await store.redis.zcard("sightline:{sightline}:due") == 0


async def test_a_group_that_has_ended_is_told_at_once(gateway: httpx.AsyncClient, album: Album, settings: Settings) -> None:
    await album.add(group="g", status="succeeded")

    answer = await gateway.post("/v1/groups/g", json={"webhook": {"url": "https://example.com/hook"}})

    assert answer.json()["webhook"] is None  # it is on its way
    (job,) = (await gateway.get("/v1/jobs", params={"group": "g"})).json()["data"]
    deliveries = await Outbox(album.store.redis).of_job(job["id"])
    assert [delivery["event_type"] for delivery in deliveries] == ["group.ended"]


async def test_what_is_known_of_a_group_goes_with_its_jobs(gateway: httpx.AsyncClient, album: Album, redis: Redis) -> None:
    for ttl_s in (60, 30):
        await album.add(group="g", status="succeeded", result_ttl_s=ttl_s)
    await gateway.post("/v1/groups/g", json={"webhook": {"url": "https://example.com/hook"}})

    kept_s = [await redis.ttl(key) async for key in redis.scan_iter(match=f"{PREFIX}group:*")]
    (delivery,) = [key async for key in redis.scan_iter(match=f"{PREFIX}delivery:*")]
    assert [50 < ttl_s <= 61 for ttl_s in kept_s] == [True]
    assert 0 < float(await redis.hget(delivery, "keep_ms") or 0) < (time.time() + 61) * 1000  # type: ignore[misc]


# --- cancel and retry ---


async def test_all_that_match_are_cancelled_and_nothing_else(gateway: httpx.AsyncClient, album: Album) -> None:
    kept = [await album.add(), await album.add("somebody", group="g"), await album.add(group="g", status="succeeded")]
    running = await album.add(group="g", status="running")
    for _ in range(250):
        await album.add(group="g")

    counted = (await gateway.post("/v1/jobs/cancel", json={"filter": {"group": "g"}, "dry_run": True})).json()
    done = (await gateway.post("/v1/jobs/cancel", json={"filter": {"group": "g"}})).json()

    assert (counted["matched"], counted["done"], done["matched"], done["done"]) == (251, 0, 251, 251)
    assert [(await album.store.get(job_id)).status for job_id in kept] == ["queued", "queued", "succeeded"]
    assert (await album.store.get(running)).status == "running"  # its worker has been told
    assert Counter((await gateway.get("/v1/groups/g")).json()["counts"])["cancelled"] == 250


async def test_a_retry_is_a_new_job_that_names_the_old(settings: Settings) -> None:
    async with gateway_for(settings) as gateway:
        body = {"prompt": "x", "images": [data_url(picture())], "group": "g", "metadata": {"album": "夏天"}}
        old = (await gateway.post("/v1/jobs", json=body)).json()
        await gateway.post(f"/v1/jobs/{old['id']}/cancel")

        async with Worker(settings).running():
            new = (await gateway.post(f"/v1/jobs/{old['id']}/retry")).json()
            ended = (await gateway.get(f"/v1/jobs/{new['id']}", params={"wait": 20})).json()

        assert ended["status"] == "succeeded"
        assert (ended["retry_of"], ended["group"], ended["metadata"]) == (old["id"], "g", {"album": "夏天"})
        assert (await gateway.get(f"/v1/jobs/{old['id']}")).json()["retried_as"] == new["id"]


async def test_all_that_failed_are_retried_once(gateway: httpx.AsyncClient, album: Album) -> None:
    failed = [await album.add(group="g", status="failed") for _ in range(120)]
    await album.add("somebody", "failed", group="g")
    await album.add(group="g", status="cancelled")

    counted = (await gateway.post("/v1/jobs/retry", json={"filter": {"group": "g"}, "dry_run": True})).json()
    done = [(await gateway.post("/v1/jobs/retry", json={"filter": {"group": "g"}})).json() for _ in range(2)]

    assert (counted["matched"], counted["done"]) == (120, 0)
    assert [(answer["matched"], answer["done"]) for answer in done] == [(120, 120), (0, 0)]
    new = (await gateway.get("/v1/jobs", params={"status": "queued", "limit": 100})).json()["data"]
    assert {job["retry_of"] for job in new} < set(failed)
    assert (await gateway.get("/v1/groups/g")).json()["counts"]["queued"] == 120


async def test_what_cannot_be_retried_says_why(gateway: httpx.AsyncClient, album: Album, redis: Redis) -> None:
    waiting, gone = await album.add(), await album.add(status="failed")
    request = json.loads(await redis.hget(f"sightline:{{sightline}}:job:{gone}", "request") or "")  # type: ignore[misc]
    request["messages"][0]["content"][0]["image"] = "blob:jobs/nothing"
    await redis.hset(f"sightline:{{sightline}}:job:{gone}", "request", json.dumps(request))  # type: ignore[misc]

    answers = [await gateway.post(f"/v1/jobs/{job_id}/retry") for job_id in (waiting, gone, new_id("job"))]

    assert [answer.status_code for answer in answers] == [409, 410, 404]


async def test_a_job_in_flight_of_many_keys_is_counted_for_its_own(album: Album) -> None:
    for owner in ("a", "b", "a"):
        await album.add(owner)
    await next_claims(album.store, 3)

    assert [(await album.selection.count(owner, Filter()))["running"] for owner in ("a", "b", "c")] == [2, 1, 0]
