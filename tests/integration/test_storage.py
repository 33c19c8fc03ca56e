"""Files in a folder and on S3 alike: whole or not at all, and a place that goes away comes back without a loss."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from shared.blobs import Blobs, inline_name
from shared.errors import BodyTooLarge, MediaUnreadable, StorageFull, StorageUnavailable
from shared.jobs import JobRequest
from shared.media_types import HEAD_BYTES
from shared.settings import Settings
from shared.store.ids import new_id
from shared.store.jobs import JobStore
from tests.integration.conftest import Worker, gateway_for, serving, until
from tests.integration.test_refusals import assert_one_shape
from tests.media import data_url, picture
from tests.s3 import ACCESS_KEY, S3

ASK = {"prompt": "What?", "images": [data_url(picture())]}
CHAT = {
    "model": "qwen-vl",
    "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": data_url(picture())}}]}],
}


class Folder:
    """A folder that can vanish and come back."""

    def __init__(self, folder: Path) -> None:
        self.url, self._folder, self._away = str(folder), folder, folder.with_name("away")

    def leave(self) -> None:
        self._folder.rename(self._away)

    def come_back(self) -> None:
        self._away.rename(self._folder)


class Bucket:
    """A part of a bucket whose server can be stopped and started."""

    def __init__(self, s3: S3) -> None:
        self.url, self._s3 = f"s3://{uuid.uuid4().hex}/a/part", s3
        s3.make_bucket(self.url.split("/")[2])

    def leave(self) -> None:
        self._s3.stop()

    def come_back(self) -> None:
        self._s3.start()


Place = Folder | Bucket


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    s3 = S3()
    s3.start()
    yield s3
    s3.stop()


@pytest.fixture
def s3(server: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    for name, value in server.environ.items():
        monkeypatch.setenv(name, value)
    server.asked.clear()
    yield server
    server.refuse = lambda _: None
    server.start()  # where a test stopped it


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Folder(tmp_path / "deep" / "blobs") if request.param == "folder" else Bucket(request.getfixturevalue("s3"))


@pytest.fixture
def blobs(place: Place) -> Blobs:
    return Blobs(place.url)


@pytest.fixture
def settings(settings: Settings, place: Place) -> Settings:
    return settings.model_copy(update={"blobs_url": place.url, "lease_s": 2.0})


@pytest.fixture
async def gateway(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway_for(settings) as client:
        yield client


async def chunks(*parts: bytes, then: Exception | None = None) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
    if then:
        raise then


async def names(blobs: Blobs) -> set[str]:
    return {name for top in ("uploads", "inline", "batches") async for page in blobs.names(top) for name in page}


class TestContract:
    """What every place promises."""

    @pytest.mark.parametrize("n_bytes", [0, 1, 300, 12_345_678])
    async def test_what_is_put_is_what_is_got(self, blobs: Blobs, n_bytes: int) -> None:
        data = os.urandom(n_bytes)

        found = await blobs.put("uploads/file-1", chunks(data[:10], b"", data[10:5_000_000], data[5_000_000:]))

        assert found == (n_bytes, hashlib.sha256(data).hexdigest(), data[:HEAD_BYTES])
        assert await blobs.get("uploads/file-1") == data
        assert await blobs.size("uploads/file-1") == n_bytes
        assert b"".join([piece async for piece in blobs.stream("uploads/file-1", n_bytes)]) == data
        if n_bytes > 20:
            assert await blobs.read("uploads/file-1", 10, 7) == data[10:17]
        await blobs.put_bytes("inline/job_1-0", data)
        assert await blobs.get("inline/job_1-0") == data

    @pytest.mark.parametrize("error", [BodyTooLarge("too much"), OSError("left")], ids=["too-large", "left"])
    async def test_nothing_shows_when_the_stream_fails_half_way(self, blobs: Blobs, error: Exception) -> None:
        with pytest.raises(type(error), match=str(error)):
            await blobs.put("uploads/file-1", chunks(b"x" * 8_000_000, b"y" * 8_000_000, then=error))

        assert await names(blobs) == set()

    async def test_a_file_that_is_gone_says_so(self, blobs: Blobs) -> None:
        await blobs.put_bytes("uploads/file-2", b"x")
        asks = blobs.get("uploads/file-1"), blobs.size("uploads/file-1"), blobs.read("uploads/file-1", 0, 1)
        for ask in (*asks, anext(blobs.stream("uploads/file-1", 1))):
            with pytest.raises(MediaUnreadable, match="no longer there"):
                await ask

    async def test_files_are_listed_and_deleted_and_those_gone_are_no_error(self, blobs: Blobs) -> None:
        kept = {"inline/job_2-0", "batches/batch_1/output-0", *(f"uploads/file-{n}" for n in range(3))}
        for name in {"inline/job_1-0", "elsewhere/x", *kept}:
            await blobs.put_bytes(name, b"x")

        await blobs.delete("inline/job_1-0", "inline/job_9-0")
        assert await blobs.discard("inline/job_9-0")

        assert await names(blobs) == kept

    async def test_a_place_that_is_away_says_so_and_has_everything_when_it_is_back(self, blobs: Blobs, place: Place) -> None:
        await blobs.put_bytes("uploads/file-1", b"x")
        place.leave()

        asks = (
            blobs.get("uploads/file-1"),
            blobs.size("uploads/file-1"),
            blobs.read("uploads/file-1", 0, 1),
            anext(blobs.stream("uploads/file-1", 1)),
            anext(blobs.names("uploads")),
            blobs.put("uploads/file-2", chunks(b"x")),
            blobs.put("uploads/file-3", chunks(b"x" * 6_000_000, b"x" * 6_000_000)),
            blobs.put_bytes("inline/job_1-0", b"x"),
        )
        answers = await asyncio.gather(*asks, return_exceptions=True)
        assert {type(answer) for answer in answers} == {StorageUnavailable}
        with suppress(StorageUnavailable):  # a file in a folder that is away is gone, too
            await blobs.delete("uploads/file-9")

        place.come_back()
        assert await blobs.get("uploads/file-1") == b"x"
        await blobs.put_bytes("inline/job_1-0", b"x")
        assert await names(blobs) == {"uploads/file-1", "inline/job_1-0"}


@pytest.mark.parametrize("comes_back", [True, False])
async def test_a_folder_that_comes_back_after_a_failed_read_was_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, comes_back: bool
) -> None:
    blobs, place = Blobs(str(tmp_path / "blobs")), Folder(tmp_path / "blobs")
    await blobs.put_bytes("uploads/file-1", b"x")
    place.leave()
    is_dir = Path.is_dir

    def look(path: Path, **how: bool) -> bool:
        if path == tmp_path / "blobs" and not is_dir(path):
            place.come_back()  # between the read and the look
            if not comes_back:
                (path / "uploads" / "file-1").unlink()
        return is_dir(path, **how)

    monkeypatch.setattr(Path, "is_dir", look)
    with pytest.raises(StorageUnavailable if comes_back else MediaUnreadable):
        await blobs.get("uploads/file-1")


async def test_a_folder_that_vanished_is_not_made_again(tmp_path: Path) -> None:
    blobs = Blobs(str(tmp_path / "blobs"))
    shutil.rmtree(tmp_path / "blobs")

    for put in (blobs.put_bytes("inline/x", b"x"), blobs.put("uploads/x", chunks(b"x"))):
        with pytest.raises(StorageUnavailable):
            await put

    assert not (tmp_path / "blobs").exists()


@pytest.mark.parametrize("n_bytes", [1, 100_000])
async def test_a_full_disk_takes_no_file_and_leaves_no_part_of_it(
    tmp_path: Path, n_bytes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    blobs = Blobs(str(tmp_path))
    (tmp_path / "inline").mkdir()
    (tmp_path / "inline/x").symlink_to("/dev/full")

    with pytest.raises(StorageFull):
        await blobs.put_bytes("inline/x", b"x" * n_bytes)

    assert await names(blobs) == set()
    assert str(tmp_path) in capsys.readouterr().out


async def test_a_disk_that_takes_no_writes_is_out_of_reach(tmp_path: Path) -> None:
    (tmp_path / "inline").write_bytes(b"no folder")
    with pytest.raises(StorageUnavailable):
        await Blobs(str(tmp_path)).put_bytes("inline/x", b"x")


@pytest.mark.parametrize(
    ("status", "code"),
    [("403 Forbidden", "InvalidAccessKeyId"), ("503 Slow Down", "SlowDown"), ("404 Not Found", "NoSuchBucket")],
)
async def test_a_store_that_refuses_is_out_of_reach_and_the_log_says_why(
    s3: S3, status: str, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    blobs = Blobs(Bucket(s3).url)
    s3.refuse = lambda _: (status, code)

    for ask in (blobs.get("uploads/x"), blobs.put_bytes("uploads/x", b"x"), blobs.delete("uploads/x")):
        with pytest.raises(StorageUnavailable):
            await ask

    told = capsys.readouterr().out
    assert code in told
    assert ACCESS_KEY not in told
    assert told.count("storage.failed") == 1


async def test_a_store_without_room_is_full(s3: S3) -> None:
    blobs = Blobs(Bucket(s3).url)
    s3.refuse = lambda _: ("507 Insufficient Storage", "XMinioStorageFull")
    with pytest.raises(StorageFull):
        await blobs.put_bytes("uploads/x", b"x")


async def test_a_file_on_s3_is_read_in_few_requests(s3: S3) -> None:
    blobs, n_bytes = Blobs(Bucket(s3).url), 6_000_000
    await blobs.put_bytes("uploads/x", b"x" * n_bytes)
    s3.asked.clear()

    assert sum([len(piece) async for piece in blobs.stream("uploads/x", n_bytes)]) == n_bytes

    assert s3.asked == ["GET", "GET"]


async def test_the_gateway_asks_to_come_back_while_the_files_are_away(
    gateway: httpx.AsyncClient, place: Place, store: JobStore
) -> None:
    uploads = [(await gateway.post("/v1/files", files={"file": picture()})).json()["id"] for _ in range(2)]
    place.leave()

    requests = (
        gateway.post("/v1/jobs", json=ASK),
        gateway.post("/v1/chat/completions", json=CHAT),
        gateway.post("/v1/files", files={"file": picture()}),
        gateway.post("/v1/files", files={"file": b"x" * 3_000_000}, data={"purpose": "batch"}),
        gateway.get(f"/v1/files/{uploads[0]}/content"),
    )
    for answer in await asyncio.gather(*requests):
        assert_one_shape(answer, status=503, code="storage_unavailable")
        assert int(answer.headers["retry-after"]) > 0
    assert (await gateway.get("/v1/files")).json()["data"][0]["id"] == uploads[1]
    assert (await store.counts())["queued"] == 0
    deleted = await gateway.delete(f"/v1/files/{uploads[1]}")
    assert deleted.json() == {"id": uploads[1], "object": "file", "deleted": True}
    assert (await gateway.get(f"/v1/files/{uploads[1]}")).status_code == 404

    place.come_back()
    assert (await gateway.get(f"/v1/files/{uploads[0]}/content")).content == picture()
    assert (await gateway.post("/v1/jobs", json=ASK)).status_code == 202
    assert (await gateway.post("/v1/files", files={"file": picture()})).status_code == 201


async def test_a_file_whose_bytes_are_gone_is_not_found(gateway: httpx.AsyncClient, blobs: Blobs) -> None:
    upload = (await gateway.post("/v1/files", files={"file": picture()})).json()["id"]
    await blobs.delete(f"uploads/{upload}")

    assert_one_shape(await gateway.get(f"/v1/files/{upload}/content"), status=404, code="not_found")


async def submit_stored(store: JobStore, blobs: Blobs, settings: Settings, redis: Redis, **given: object) -> str:
    job_id = new_id("job")
    await blobs.put_bytes(inline_name(job_id, 0), picture())
    content = [{"type": "image", "image": f"blob:{inline_name(job_id, 0)}"}, {"type": "text", "text": "x"}]
    request = JobRequest.model_validate({"messages": [{"role": "user", "content": content}]} | given)
    await store.submit(request, settings, owner="me", job_id=job_id)
    return job_id


async def test_a_worker_waits_for_files_that_are_away_and_charges_no_attempt(
    settings: Settings, place: Place, blobs: Blobs, store: JobStore, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.endings.STORAGE_PAUSE_S", (0.01, 0.05))
    job_id = await submit_stored(store, blobs, settings, redis)
    expired = f"file-{uuid.uuid4().hex}"
    await redis.zadd("sightline:{sightline}:uploads_due", {expired: 1})
    place.leave()
    async with Worker(settings).running() as worker:

        async def tried_often() -> bool:  # more often than there are attempts
            return int(await redis.hget(f"sightline:{{sightline}}:job:{job_id}", "fence") or 0) > 4  # type: ignore[misc]

        await until(tried_often)
        place.come_back()

        async def ended() -> bool:
            return (await store.get(job_id)).status.is_final

        await until(ended)
        await redis.zadd("sightline:{sightline}:uploads_due", {expired: 1})
        await worker.runtime._janitor.purge()

    job = await store.get(job_id)
    assert (job.status, job.attempt, job.error) == ("succeeded", 1, None)
    assert await redis.zcard("sightline:{sightline}:uploads_due") == 0
    assert await names(blobs) == set()


async def test_a_job_waits_for_its_files_until_its_deadline_and_not_longer(
    settings: Settings, place: Place, blobs: Blobs, store: JobStore, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.endings.STORAGE_PAUSE_S", (0.01, 0.05))
    job_id = await submit_stored(store, blobs, settings, redis, start_deadline_s=1)
    await redis.hset(f"sightline:{{sightline}}:job:{job_id}", "attempt", 1)  # type: ignore[misc]  # it has begun before
    place.leave()
    async with Worker(settings).running():

        async def ended() -> bool:
            return (await store.get(job_id)).status.is_final

        await until(ended)

    job = await store.get(job_id)
    assert job.error is not None
    assert (job.status, job.error["code"]) == ("failed", "start_deadline")
    assert "storage" in job.error["message"]


async def test_a_job_that_ends_while_the_files_are_away_has_ended(
    settings: Settings, place: Place, blobs: Blobs, store: JobStore, redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    job_id = await submit_stored(store, blobs, settings, redis)
    async with Worker(settings).running() as worker:
        taken = worker.runtime.runner.media_loader.load

        @asynccontextmanager
        async def load_and_leave(*args: Any, **kwargs: Any) -> AsyncIterator[object]:
            async with taken(*args, **kwargs) as conversation:
                place.leave()
                yield conversation

        worker.runtime.runner.media_loader.load = load_and_leave  # type: ignore[assignment, method-assign]

        async def ended() -> bool:
            return (await store.get(job_id)).status == "succeeded"

        await until(ended)

        async def no_task_left() -> bool:
            return not worker.runtime.runner.background._tasks

        await until(no_task_left)
        assert "background.failed" not in capsys.readouterr().out
        assert worker.runtime.readiness.takes_jobs
    place.come_back()


@pytest.mark.parametrize("place", ["s3"], indirect=True)
@pytest.mark.parametrize("allowed", ["everything", "no-list"])
async def test_a_worker_lives_on_a_store_that_it_may_not_list(
    s3: S3, settings: Settings, blobs: Blobs, store: JobStore, redis: Redis, allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.runtime.LOOK_FOR_SWEEP_EVERY_S", 0.1)
    if allowed == "no-list":
        s3.refuse = lambda asked: ("403 Forbidden", "AccessDenied") if "list-type" in asked else None
    job_id = await submit_stored(store, blobs, settings, redis)
    async with Worker(settings).running() as worker:

        async def notice() -> dict[str, object]:
            return next(iter(await worker.runtime._registry.workers()), {})

        async def ended() -> bool:
            return (await store.get(job_id)).status == "succeeded"

        async def told() -> bool:
            return ("sweep" in (await notice()).get("failing_chores", ())) == (allowed == "no-list")  # type: ignore[operator]

        await until(ended)
        await until(told)


class TestTemporaryFolder:
    """Where an upload lies until it has arrived."""

    FORM = {"file": b"x" * 3_000_000}  # noqa: RUF012

    async def ask(self, gateway: httpx.AsyncClient) -> httpx.Response:
        return await gateway.post("/v1/files", files=self.FORM, data={"purpose": "batch"})

    async def test_one_that_takes_no_more_bytes_asks_to_come_back(self, folder_settings: Settings) -> None:
        """Everything that this gateway writes finds its disk full, its log lines, too."""
        async with serving(folder_settings) as (gateway, process):
            _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, most))
            for answer in (await self.ask(gateway), await gateway.post("/v1/jobs", json=ASK)):
                assert_one_shape(answer, status=507, code="storage_full")
                assert int(answer.headers["retry-after"]) > 0
            assert (await gateway.get("/v1/queue")).status_code == 200
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))

            assert (await self.ask(gateway)).status_code == 201

    async def test_one_that_vanished_asks_to_come_back(
        self, folder_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        temporary = tmp_path / "temporary"
        temporary.mkdir()
        monkeypatch.setenv("TMPDIR", str(temporary))
        async with serving(folder_settings) as (gateway, _):
            assert (await self.ask(gateway)).status_code == 201
            temporary.rename(tmp_path / "away")
            assert_one_shape(await self.ask(gateway), status=503, code="storage_unavailable")
            (tmp_path / "away").rename(temporary)

            assert (await self.ask(gateway)).status_code == 201

    @pytest.fixture
    def folder_settings(self, settings: Settings, tmp_path: Path) -> Settings:
        return settings.model_copy(update={"blobs_url": str(tmp_path / "blobs")})

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        return Folder(tmp_path / "blobs")
