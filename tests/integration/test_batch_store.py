"""What stands in Redis of a batch: the lease and its token, its owner's bounds, the room that its lines leave to others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from api.batches.output import BatchOutput
from api.batches.storage import Storage
from api.batches.waits import Waits
from api.services import Services, make_services
from shared.blobs import Blobs
from shared.errors import FileInUse, InvalidRequest, QueueFull, RateLimited, TooManyBatches, UploadUnknown
from shared.jobs import JobRequest, Priority
from shared.settings import Settings
from shared.store.api_keys import ApiKeys
from shared.store.batch_leases import Lease, LeaseLost, Line
from shared.store.batches import Batch, Batches
from shared.store.connection import Client
from shared.store.ids import new_id
from shared.store.jobs import JobStore

LINE = Line(1, 0, 10, "c1", "qwen-vl")
REQUEST = JobRequest.model_validate({"messages": [{"role": "user", "content": "x"}]})


@pytest.fixture
def batches(redis: Redis) -> Batches:
    return Batches(cast("Client", redis))


@pytest.fixture
def services(settings: Settings, redis: Redis) -> Services:
    return make_services(settings, cast("Client", redis))


async def add_file(services: Services, owner: str = "me") -> str:
    facts: dict[str, Any] = {"filename": "in.jsonl", "media_type": "application/jsonl", "sha256": "0", "purpose": "batch"}
    upload = await services.uploads.add(new_id("file").replace("_", "-"), owner=owner, ttl_s=3600, bytes=1, **facts)
    return upload.id


async def open_batch(services: Services, owner: str = "me", **given: Any) -> Batch:
    facts = {
        "input_file_id": given.get("file_id") or await add_file(services, owner),
        "endpoint": "/v1",
        "completion_window": "24h",
    }
    limits = {"window_s": given.get("window_s", 60), "max_open": given.get("max_open", 100)}
    return await services.batches.create(owner, facts, metadata={}, **limits)


async def begun(services: Services) -> Lease:
    """Open a batch whose lines may be taken, under a lease."""
    lease = await services.batches.lease((await open_batch(services)).id, lease_s=60)
    assert lease
    await services.batches.move(lease, "in_progress")
    return lease


CALLS: dict[str, Callable[[Services, Lease], Awaitable[Any]]] = {
    "renew": lambda parts, lease: parts.batches.renew(lease, lease_s=60),
    "leave": lambda parts, lease: parts.batches.leave(lease),
    "note": lambda parts, lease: parts.batches.note(lease, total=7),
    "move": lambda parts, lease: parts.batches.move(lease, "completed"),
    "take": lambda parts, lease: parts.batches.take(lease, LINE, "job_1", parts.settings),
    "finish": lambda parts, lease: parts.batches.finish(lease, LINE, "job_1", "output", {}, count="completed"),
    "flushed": lambda parts, lease: parts.batches.flushed(lease, "output", n_parts=0, part="p", n_lines=1),
    "submit": lambda parts, lease: parts.store.submit(REQUEST, parts.settings, owner="me", job_id="job_1", lease=lease),
}


@pytest.mark.parametrize("how", ["ended", "another's"])
@pytest.mark.parametrize("call", CALLS)
async def test_a_lease_that_is_lost_counts_for_nothing(services: Services, redis: Redis, call: str, how: str) -> None:
    lease = await begun(services)
    await redis.zadd("sightline:{sightline}:batches_open", {lease.batch_id: 1})
    heir = await services.batches.lease(lease.batch_id, lease_s=60) if how == "another's" else None
    before = await everything(redis)

    with pytest.raises(LeaseLost):
        await CALLS[call](services, lease)

    assert await everything(redis) == before
    if heir:
        assert (await services.batches.renew(heir, lease_s=60))[0] == "in_progress"


async def everything(redis: Redis) -> dict[str, bytes]:
    """Give the contents of Redis."""
    return {key: await redis.dump(key) for key in await redis.keys() if not key.startswith("sightline:{sightline}:uploads")}


@pytest.mark.parametrize("call", sorted(set(CALLS) - {"leave", "submit"}))
async def test_a_call_repeated_because_its_reply_was_lost_does_no_more(services: Services, redis: Redis, call: str) -> None:
    lease = await begun(services)
    if call in {"finish", "flushed"}:
        await CALLS["take"](services, lease)
    if call == "flushed":
        await CALLS["finish"](services, lease)
    first = await CALLS[call](services, lease)
    before = await everything(redis)

    again = await CALLS[call](services, lease)

    assert again == (0 if call == "finish" else first) or call == "renew"
    after = await everything(redis)
    assert {key for key in after if after[key] != before.get(key)} <= (
        {"sightline:{sightline}:batches_open"} if call == "renew" else set()
    )


async def test_two_runners_write_each_line_once(services: Services, redis: Redis, settings: Settings, blobs: Blobs) -> None:
    lease = await begun(services)
    await redis.rpush(f"sightline:{{sightline}}:batch:{lease.batch_id}:output", *(f"L{n}" for n in range(1100)))  # type: ignore[misc]
    batch = await services.batches.get(lease.batch_id)
    late = BatchOutput(services, Storage(Waits(services.batches, lease, batch)), lease, batch)
    store = late._blobs.put_bytes

    async def held_up(name: str, data: bytes) -> None:
        """Stop the first runner before it writes its part, until another has written one."""
        await redis.zadd("sightline:{sightline}:batches_open", {lease.batch_id: 1})
        heir = await services.batches.lease(lease.batch_id, lease_s=60)
        assert heir
        services.blobs.put_bytes = store  # type: ignore[method-assign]
        quick = BatchOutput(services, Storage(Waits(services.batches, heir, batch)), heir, batch)
        assert await quick._flush("output")
        await store(name, data)
        written.append(quick)

    written: list[BatchOutput] = []
    services.blobs.put_bytes = held_up  # type: ignore[method-assign]
    with pytest.raises(LeaseLost):
        await late._flush("output")
    names = await written[0].write({})
    data = await Blobs(settings.blobs_url).get(f"uploads/{names['output_file']}")

    assert data.decode().split() == [f"L{n}" for n in range(1100)]
    assert names["error_file"] == ""


async def test_a_list_goes_on_where_its_cursor_is_gone_and_shrinks(services: Services, redis: Redis) -> None:
    ids = []
    for _ in range(6):
        ids.append((await open_batch(services)).id)
        await asyncio.sleep(0.002)  # ids of one millisecond have no order
    listed = services.batches.list_batches

    page, more = await listed(owner="me", limit=2, after=None)
    assert ([batch.id for batch in page], more) == (ids[:3:-1], True)
    await redis.delete(f"sightline:{{sightline}}:batch:{ids[4]}")  # the last of the page, whose retention ends now
    await redis.zrem("sightline:{sightline}:batches:me", ids[4])
    page, more = await listed(owner="me", limit=2, after=ids[4])
    assert ([batch.id for batch in page], more) == ([ids[3], ids[2]], True)
    page, more = await listed(owner="me", limit=2, after=ids[2])
    assert ([batch.id for batch in page], more) == ([ids[1], ids[0]], False)
    with pytest.raises(InvalidRequest):
        await listed(owner="me", limit=2, after="batch_x")

    for batch_id in ids[:4]:
        await redis.delete(f"sightline:{{sightline}}:batch:{batch_id}")
    made = await open_batch(services)
    assert await redis.zrange("sightline:{sightline}:batches:me", 0, -1) == [ids[5], made.id]


async def test_the_list_of_an_owner_without_open_batches_goes_with_the_last_record(services: Services, redis: Redis) -> None:
    lease = await begun(services)
    assert await redis.ttl("sightline:{sightline}:batches:me") == -1
    await services.batches.move(lease, "failed")
    assert (
        0
        < await redis.ttl("sightline:{sightline}:batches:me")
        <= await redis.ttl(f"sightline:{{sightline}}:batch:{lease.batch_id}")
    )
    await open_batch(services)
    assert await redis.ttl("sightline:{sightline}:batches:me") == -1


async def test_an_owner_has_so_many_batches_open(services: Services) -> None:
    lease = await begun(services)
    await open_batch(services, max_open=2)
    with pytest.raises(TooManyBatches, match="SIGHTLINE_MAX_OPEN_BATCHES"):
        await open_batch(services, max_open=2)
    await open_batch(services, "somebody else", max_open=1)
    await services.batches.move(lease, "completed")
    await open_batch(services, max_open=2)


async def test_a_file_stays_while_an_open_batch_reads_it(services: Services) -> None:
    file_id = await add_file(services)
    lease = await services.batches.lease((await open_batch(services, file_id=file_id)).id, lease_s=60)
    assert lease
    with pytest.raises(FileInUse, match=lease.batch_id):
        await services.uploads.expire(file_id, owner="me")
    await services.uploads.redis.zadd("sightline:{sightline}:uploads_due", {file_id: 1})
    assert await services.uploads.take_due() == []  # though it has expired
    await services.batches.move(lease, "failed")
    await services.uploads.expire(file_id, owner="me")
    assert await services.uploads.take_due() == [(file_id, "me")]
    with pytest.raises(UploadUnknown):  # it went between the gateway's look and the batch
        await open_batch(services, file_id=file_id)


async def test_redis_alone_says_how_late_it_is(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3 * 86400)
    batch = await open_batch(services, window_s=60)
    lease = await services.batches.lease(batch.id, lease_s=60)
    assert lease
    status, left_s = await services.batches.renew(lease, lease_s=60)

    assert abs(batch.created_at - real()) < 30
    assert batch.expires_at == batch.created_at + 60
    assert (status, 30 < left_s <= 60) == ("validating", True)


async def test_batches_leave_a_share_of_the_queue_to_chats(store: JobStore, settings: Settings) -> None:
    settings = settings.model_copy(update={"max_queued": 8})

    async def submit(priority: Priority) -> None:
        await store.submit(REQUEST, settings, owner=str(priority), job_id=new_id("job"), priority=priority)

    for _ in range(7):
        await submit(Priority.BULK)
    with pytest.raises(QueueFull):
        await submit(Priority.BULK)
    await submit(Priority.INTERACTIVE)
    with pytest.raises(QueueFull):
        await submit(Priority.INTERACTIVE)


@pytest.mark.parametrize(("max_queued", "of_lines"), [(1, 1), (2, 1), (8, 7)])
async def test_lines_are_taken_as_the_key_has_room(services: Services, redis: Redis, max_queued: int, of_lines: int) -> None:
    key, _ = await ApiKeys(redis).create("few", max_queued=max_queued)
    lease = await services.batches.lease((await open_batch(services, key.id)).id, lease_s=60)
    assert lease
    await services.batches.move(lease, "in_progress")

    async def take(n: int) -> str:
        return await services.batches.take(lease, Line(n, 10 * (n - 1), 10, f"c{n}"), f"job_{n}", services.settings)

    taken = [await take(n) for n in range(1, of_lines + 1)]
    assert taken == ["taken"] * of_lines
    assert await take(of_lines + 1) == "full"
    for n in range(1, of_lines + 1):  # each has had its place since it was taken
        how: dict[str, Any] = {"owner": key.id, "priority": Priority.BULK, "lease": lease}
        await services.store.submit(REQUEST, services.settings, job_id=f"job_{n}", **how)
    if max_queued > 1:
        await services.store.submit(REQUEST, services.settings, owner=key.id, job_id="job_chat", priority=Priority.INTERACTIVE)
    with pytest.raises(RateLimited):
        await services.store.submit(
            REQUEST, services.settings, owner=key.id, job_id="job_one_more", priority=Priority.INTERACTIVE
        )
    assert await redis.hget(f"sightline:{{sightline}}:owner:{key.id}", "queued") == str(max_queued)  # type: ignore[misc]
    assert await redis.exists(f"sightline:{{sightline}}:promised:{key.id}") == 0


async def test_a_line_that_never_became_a_job_gives_its_place_back(services: Services, redis: Redis) -> None:
    lease = await begun(services)
    await CALLS["take"](services, lease)
    assert await redis.scard("sightline:{sightline}:promised:me") == 1  # type: ignore[misc]
    await CALLS["finish"](services, lease)
    assert await redis.scard("sightline:{sightline}:promised:me") == 0  # type: ignore[misc]


async def test_lines_in_flight_keep_what_their_results_need(services: Services) -> None:
    lease = await begun(services)
    await services.batches.take(lease, LINE, "job_1", services.settings)
    assert await services.batches.flight(lease.batch_id) == [LINE]
