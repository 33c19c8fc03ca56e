"""Files go when nobody needs them any more, and not before: by their records and by Redis's clock alone."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from shared.blobs import Blobs, inline_name, upload_name
from shared.jobs import JobRequest
from shared.settings import Settings
from shared.store.ids import new_id
from shared.store.jobs import JobStore
from tests.integration.conftest import Worker, gateway_for, stored_files, until
from tests.media import picture
from worker.janitor import Janitor, record_of

DAY_S = 24 * 3600


@pytest.fixture
def janitor(settings: Settings, redis: Redis, blobs: Blobs) -> Janitor:
    return Janitor(settings, redis, blobs)  # type: ignore[arg-type]


@pytest.fixture
async def gateway(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway_for(settings) as client:
        yield client


async def sweep(janitor: Janitor, redis: Redis, *, later_s: float = 0.0) -> None:
    """Sweep once, as if everything had been found unclaimed so much earlier."""
    await redis.delete("sightline:{sightline}:swept")
    for name, ms in await redis.zrange("sightline:{sightline}:unclaimed", 0, -1, withscores=True):
        await redis.zadd("sightline:{sightline}:unclaimed", {name: ms - 1000 * later_s})
    await janitor.sweep()


def make_old(settings: Settings) -> None:
    """Have every file's date say that it is a year old."""
    for name in stored_files(settings):
        os.utime(Path(settings.blobs_url) / name, (time.time() - 365 * DAY_S,) * 2)


@pytest.mark.parametrize(
    "name",
    [
        "holiday/wedding.jpg",
        "notes.txt",
        "uploads/holiday.jpg",
        "uploads/file-1",
        "uploads/file-" + "A" * 32,
        "uploads/deep/file-" + "0" * 32,
        "inline/job_" + "0" * 32,
        "inline/job_" + "0" * 31 + "-1",
        "inline/me.png",
        "batches/batch_1/output-0",
        "batches/batch_" + "0" * 32,
        "batches/batch_" + "0" * 32 + "/deep/x",
        "elsewhere/uploads/file-" + "0" * 32,
    ],
)
async def test_what_is_not_ours_stays(name: str, janitor: Janitor, redis: Redis, blobs: Blobs, settings: Settings) -> None:
    await blobs.put_bytes(name, b"x")
    make_old(settings)

    for later_s in (0, settings.upload_ttl_s + 1, 365 * DAY_S):
        await sweep(janitor, redis, later_s=later_s)

    assert record_of(name) is None
    assert stored_files(settings) == {name}


def ours() -> list[str]:
    """Name a file of each kind, whole and half written."""
    file, job, batch = new_id("file").replace("_", "-"), new_id("job"), new_id("batch")
    whole = [upload_name(file), inline_name(job, 11), f"batches/{batch}/output-3"]
    return [*whole, *(f"{name}#7" for name in whole)]


async def test_what_no_record_has_had_a_claim_to_goes_in_the_end(
    janitor: Janitor, redis: Redis, blobs: Blobs, settings: Settings
) -> None:
    for name in ours():
        await blobs.put_bytes(name, b"x")
    make_old(settings)
    left = stored_files(settings)

    await sweep(janitor, redis)
    assert stored_files(settings) == left
    await sweep(janitor, redis, later_s=settings.upload_ttl_s - 60)
    assert stored_files(settings) == left
    await sweep(janitor, redis, later_s=61)

    assert stored_files(settings) == set()
    assert await redis.zcard("sightline:{sightline}:unclaimed") == 0


async def test_what_a_record_has_a_claim_to_stays(janitor: Janitor, redis: Redis, blobs: Blobs, settings: Settings) -> None:
    kept, found_again = ours()[:3], ours()[:3]
    for name in kept + found_again:
        await blobs.put_bytes(name, b"x")
    for name in kept:
        await redis.hset(f"sightline:{{sightline}}:{record_of(name)}", "any", "thing")  # type: ignore[misc]
    await sweep(janitor, redis)
    for name in found_again:  # an upload whose record is written at last
        await redis.hset(f"sightline:{{sightline}}:{record_of(name)}", "any", "thing")  # type: ignore[misc]
    make_old(settings)

    await sweep(janitor, redis, later_s=365 * DAY_S)

    assert stored_files(settings) == {*kept, *found_again}
    assert await redis.zcard("sightline:{sightline}:unclaimed") == 0


async def test_what_others_removed_is_not_remembered_for_ever(
    janitor: Janitor, redis: Redis, blobs: Blobs, settings: Settings
) -> None:
    name = ours()[0]
    await blobs.put_bytes(name, b"x")
    await sweep(janitor, redis)
    await blobs.delete(name)

    await sweep(janitor, redis, later_s=settings.upload_ttl_s + DAY_S)

    assert await redis.zcard("sightline:{sightline}:unclaimed") == 0


async def test_one_worker_sweeps_for_the_fleet(janitor: Janitor, settings: Settings, redis: Redis, blobs: Blobs) -> None:
    await blobs.put_bytes(ours()[0], b"x")
    other = Janitor(settings, redis, blobs)  # type: ignore[arg-type]
    await janitor.sweep()
    await redis.delete("sightline:{sightline}:unclaimed")

    await other.sweep()
    await janitor.sweep()

    assert await redis.zcard("sightline:{sightline}:unclaimed") == 0
    assert 0 < await redis.pttl("sightline:{sightline}:swept") <= 3_600_000


@pytest.mark.parametrize("ahead_s", [49 * 3600, 31, -31, -49 * 3600])
async def test_a_worker_whose_clock_is_wrong_does_not_sweep(
    ahead_s: float,
    janitor: Janitor,
    redis: Redis,
    blobs: Blobs,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = ours()[0]
    await blobs.put_bytes(name, b"x")
    await sweep(janitor, redis)
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + ahead_s)

    await sweep(janitor, redis, later_s=settings.upload_ttl_s + 1)

    assert stored_files(settings) == {name}
    assert "sweep.refused" in capsys.readouterr().out
    assert not await redis.exists("sightline:{sightline}:swept")  # another may


async def test_uploads_that_expired_are_cleared_away_with_their_files(
    gateway: httpx.AsyncClient, janitor: Janitor, redis: Redis, settings: Settings
) -> None:
    ids = [(await gateway.post("/v1/files", files={"file": picture()})).json()["id"] for _ in range(5)]
    for upload_id in ids[:4]:
        await expire(upload_id, redis)

    listed = (await gateway.get("/v1/files")).json()["data"]
    await janitor.purge()

    assert [file["id"] for file in listed] == ids[4:]
    assert stored_files(settings) == {upload_name(ids[4])}
    assert await redis.zrange("sightline:{sightline}:uploads:local", 0, -1) == ids[4:]
    assert await redis.zrange("sightline:{sightline}:uploads_due", 0, -1) == ids[4:]
    assert await redis.exists(*(f"sightline:{{sightline}}:upload:{upload_id}" for upload_id in ids)) == 1


async def expire(upload_id: str, redis: Redis) -> None:
    """Let an upload's time pass for its owner."""
    seconds, _ = await redis.time()  # type: ignore[misc]
    await redis.hset(f"sightline:{{sightline}}:upload:{upload_id}", "expires_at", seconds)  # type: ignore[misc]
    await redis.zadd("sightline:{sightline}:uploads_due", {upload_id: 1000 * seconds}, lt=True)


async def test_two_workers_do_not_remove_the_same_uploads(janitor: Janitor, redis: Redis) -> None:
    await redis.zadd("sightline:{sightline}:uploads_due", {"file-1": 1})

    assert await janitor._uploads.take_due() == [("file-1", "")]
    assert await janitor._uploads.take_due() == []


async def test_an_upload_that_a_waiting_job_named_outlives_its_expiry(
    gateway: httpx.AsyncClient, janitor: Janitor, redis: Redis, settings: Settings, store: JobStore
) -> None:
    upload = (await gateway.post("/v1/files", files={"file": picture()})).json()
    ask = {"prompt": "What?", "images": [upload["id"]], "start_deadline_s": 7 * DAY_S}
    job_id = (await gateway.post("/v1/jobs", json=ask)).json()["id"]
    kept_ms = await redis.zscore("sightline:{sightline}:uploads_due", upload["id"]) or 0.0
    await redis.hset(f"sightline:{{sightline}}:upload:{upload['id']}", "expires_at", upload["created_at"])  # type: ignore[misc]
    make_old(settings)
    await janitor.purge()
    await sweep(janitor, redis)
    await sweep(janitor, redis, later_s=365 * DAY_S)

    assert kept_ms / 1000 - upload["created_at"] >= 7 * DAY_S + settings.max_attempts * settings.run_timeout_s
    assert (await gateway.get(f"/v1/files/{upload['id']}")).status_code == 404  # to its owner it has expired
    assert (await gateway.post("/v1/jobs", json=ask)).json()["error"]["code"] == "upload_unknown"
    async with Worker(settings).running():

        async def ended() -> bool:
            return (await store.get(job_id)).status.is_final

        await until(ended)
    assert (await store.get(job_id)).status == "succeeded"

    await redis.zadd("sightline:{sightline}:uploads_due", {upload["id"]: 1})
    await janitor.purge()
    assert stored_files(settings) == set()


async def test_a_job_that_waits_for_a_week_finds_its_pictures(
    janitor: Janitor, redis: Redis, blobs: Blobs, settings: Settings, store: JobStore
) -> None:
    job_id = new_id("job")
    await blobs.put_bytes(inline_name(job_id, 0), picture())
    content = [{"type": "image", "image": f"blob:{inline_name(job_id, 0)}"}, {"type": "text", "text": "x"}]
    request = JobRequest.model_validate({"messages": [{"role": "user", "content": content}], "start_deadline_s": 7 * DAY_S})
    await store.submit(request, settings, owner="me", job_id=job_id)
    make_old(settings)

    for _ in range(2):
        await sweep(janitor, redis, later_s=6 * DAY_S)

    assert stored_files(settings) == {inline_name(job_id, 0)}


async def test_a_deleted_file_is_gone_at_once(gateway: httpx.AsyncClient, redis: Redis, settings: Settings) -> None:
    upload_id = (await gateway.post("/v1/files", files={"file": picture()})).json()["id"]

    await gateway.delete(f"/v1/files/{upload_id}")

    assert stored_files(settings) == set()
    assert not await redis.exists(
        f"sightline:{{sightline}}:upload:{upload_id}",
        "sightline:{sightline}:uploads:local",
        "sightline:{sightline}:uploads_due",
    )


async def test_a_list_of_files_goes_on_after_one_that_is_gone(gateway: httpx.AsyncClient) -> None:
    ids = [(await gateway.post("/v1/files", files={"file": picture()})).json()["id"] for _ in range(6)][::-1]
    await gateway.delete(f"/v1/files/{ids[2]}")

    page = (await gateway.get("/v1/files", params={"limit": 2, "after": ids[2]})).json()

    assert ([file["id"] for file in page["data"]], page["has_more"]) == (ids[3:5], True)
    refused = await gateway.get("/v1/files", params={"after": "file-nobody"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "after")


async def test_an_uploads_times_are_those_of_redis(
    gateway: httpx.AsyncClient, redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds, _ = await redis.time()  # type: ignore[misc]
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + 10 * DAY_S)

    upload = (await gateway.post("/v1/files", files={"file": picture()})).json()

    assert upload["created_at"] - seconds in range(5)
    assert upload["expires_at"] - upload["created_at"] == settings.upload_ttl_s
    assert (await gateway.get(f"/v1/files/{upload['id']}")).status_code == 200
