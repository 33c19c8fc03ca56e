"""The Python client, both kinds, against a real gateway: handles, uploads, many at a time, drops, errors."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from shared.settings import ROOT, Settings
from sightline.client import AsyncClient, Client, Described, Event, ServiceError
from sightline.client.core import body_with
from sightline.client.ends import Ends
from tests.integration.conftest import Reply, Site, Worker, until
from tests.integration.served import served
from tests.media import BLUE, RED, clip, data_url, picture

WHAT = "这是什么"


@pytest.fixture
async def asked(url: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(url) as client:
        yield client


@pytest.mark.parametrize("kind", ["path", "text", "bytes", "file", "pipe", "upload", "id", "data-URL"])
async def test_media_come_in_every_form(asked: AsyncClient, worker: Worker, tmp_path: Path, kind: str) -> None:
    data, path = picture(RED), tmp_path / "画.png"
    path.write_bytes(data)
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    written = io.BytesIO()
    written.write(data)  # and stands at its end
    with os.fdopen(reading, "rb") as pipe:
        media = {
            "path": path,
            "text": str(path),
            "bytes": data,
            "file": written,
            "pipe": pipe,
            "upload": await asked.upload(data, name="x"),
            "id": (await asked.upload(data)).id,
            "data-URL": data_url(data),
        }[kind]
        job = await asked.describe(media, WHAT)  # type: ignore[arg-type]  # one of many forms

    assert (job.status, job.text.split()[-1], job.finish_reason) == ("succeeded", WHAT, "stop")
    assert job.usage["output_tokens"] > 0
    assert job["output"]["text"] == job.text  # the service's own fields are there, too


async def test_several_pictures_and_a_video_go_together(asked: AsyncClient, worker: Worker) -> None:
    job = await asked.describe([picture(RED), picture(BLUE)], WHAT, system="简短回答", sampling={"max_tokens": 40})
    film = await asked.describe(clip([0, 128]), WHAT)

    assert job.text.count("1 x ") == 2
    assert film.text.startswith("2 x ")
    assert (await asked.request("GET", "/v1/files", params={"limit": 1}))["data"][0]["filename"] == "file"


async def test_a_job_s_handle(asked: AsyncClient, worker: Worker) -> None:
    slow = await asked.send(picture(), "!slow 60")
    with pytest.raises(TimeoutError, match="is still"):
        await slow.wait(timeout_s=0.1)
    assert not slow.is_final
    assert (await slow.cancel()).status == "cancelled"
    assert (await slow.cancel()).status == "cancelled"  # again does no harm
    assert slow.error
    assert slow.error.code == "cancelled"

    spoken = await asked.send(picture(), "!speak 0.01 eins zwei\u2028drei")
    events = [event async for event in spoken.events()]
    assert [event.type for event in events][:2] == ["job.queued", "job.running"]
    assert events[-1].type == "job.succeeded"
    assert "".join(event.data["text"] for event in events if event.type == "job.delta").endswith("zwei\u2028drei")
    assert [event.id async for event in spoken.events(after=events[-2].id)] == [events[-1].id]
    assert [event async for event in spoken.events(after=events[-1].id)] == []
    assert (await asked.job(spoken.id)).text == (await spoken.refresh()).text


async def test_a_job_is_retried_as_another(asked: AsyncClient, url: str, worker: Worker) -> None:
    spoken = await (await asked.send(picture(), WHAT, group="夏天")).wait()
    failed = await (await asked.send(picture(), "!long", group="夏天")).wait()

    again = await (await failed.retry()).wait()

    assert (again.status, again["retry_of"]) == ("failed", failed.id)
    assert [job.id async for job in asked.jobs(group="夏天", status="failed")] == [again.id, failed.id]
    with Client(url) as client:
        assert await asyncio.to_thread(lambda: [job.id for job in client.jobs(group="夏天", status="succeeded")]) == [spoken.id]


async def test_lists_go_on_by_themselves(asked: AsyncClient, worker: Worker) -> None:
    sent = [(await asked.send(data_url(picture()), WHAT)).id for _ in range(7)]

    assert [job.id async for job in asked.jobs(limit=3)] == sent[::-1]
    assert await asked.models() == ["qwen-vl"]


@pytest.mark.parametrize("streams", [True, False])
async def test_many_at_a_time_and_each_that_is_refused_is_told(
    asked: AsyncClient, worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, streams: bool
) -> None:
    """Without the stream of events, as behind some proxies, each job is asked for."""
    for n in range(30):
        (tmp_path / f"{n:02}.png").write_bytes(picture() if n % 10 else b"none")
    if not streams:
        monkeypatch.setattr("sightline.client.ends.OPENS_WITHIN_S", 0.0)
        monkeypatch.setattr(Ends, "_listen", _silence)
    paths = [*(tmp_path / f"{n:02}.png" for n in range(30)), tmp_path / "missing.png"]

    ended: list[Described[Path]] = [done async for done in asked.describe_many(paths, WHAT, window=4)]

    assert sorted(done.item for done in ended) == paths
    codes = {done.item.name: getattr(done.error, "code", "file") for done in ended if done.error}
    assert codes == {f"{n}.png": "unsupported_media" for n in ("00", "10", "20")} | {"missing.png": "file"}
    assert all(done.text.endswith(WHAT) for done in ended if not done.error)
    assert 1 <= worker.engine.peak <= 4


async def _silence(self: Ends) -> None:
    await asyncio.sleep(3600)


async def test_the_window_is_what_the_workers_have_places_for(asked: AsyncClient, settings: Settings) -> None:
    taken = list[int]()

    def endless() -> object:
        while True:
            taken.append(len(taken))
            yield data_url(picture())

    async with Worker(settings.model_copy(update={"max_num_seqs": 16})).running():
        await until(lambda: _ready(asked))
        places = (await asked.request("GET", "/v1/workers"))["data"][0]["places"]
        results = asked.describe_many(endless(), "!slow 60")  # type: ignore[arg-type]
        reading = asyncio.ensure_future(anext(results))
        await until(lambda: _is(len(taken) >= places))
        await asyncio.sleep(0.5)
        reading.cancel()
        await asyncio.wait([reading])
        await results.aclose()

    assert places <= len(taken) <= 2 * places + 2


async def test_the_blocking_client_describes_many_beside_a_loop(url: str, worker: Worker) -> None:
    """As in a notebook; whoever stops reading stops it, and leaves no thread behind."""

    def run() -> list[str]:
        with Client(url) as client:
            texts = [done.text for done in client.describe_many([picture()] * 5, WHAT)]
            for done in client.describe_many(iter([picture()] * 1000), WHAT, window=2):
                texts.append(done.text)
                break
        return texts

    texts = await asyncio.to_thread(run)

    assert len(texts) == 6
    assert all(text.endswith(WHAT) for text in texts)
    assert len(worker.engine.finished) < 100


async def test_the_blocking_client_s_handle(url: str, worker: Worker) -> None:
    def run() -> tuple[list[Event], str]:
        with Client(f"{url}/v1") as client:
            job = client.send(picture(), WHAT)
            events = list(job.events())
            assert job.wait().text == client.job(job.id).text == client.wait(job.id)["output"]["text"]
            assert [listed.id for listed in client.jobs()] == [job.id]
            assert [file.is_video for file in client.files()] == [False]
            assert client.send(picture(), "!slow 60").cancel().status == "cancelled"
            return events, job.text

    events, text = await asyncio.to_thread(run)

    assert events[-1].type == "job.succeeded"
    assert text.endswith(WHAT)


async def test_a_gateway_that_is_restarted_is_waited_for(settings: Settings, worker: Worker) -> None:
    async with served(settings) as url:
        client = AsyncClient(url)
        results = client.describe_many([picture()] * 4, "!slow 1.5", window=2)
        first = asyncio.ensure_future(anext(results))
        await until(lambda: _is(worker.engine.running == 2))
    await asyncio.sleep(0.2)
    async with served(settings, port=httpx.URL(url).port or 0):
        ended = [await first, *[done async for done in results]]
        await client.aclose()

    assert [done.error for done in ended] == [None] * 4
    assert len(worker.engine.finished) == 4


async def test_errors_say_all_that_the_service_said(asked: AsyncClient, worker: Worker) -> None:
    with pytest.raises(ServiceError) as refused:
        await asked.submit({"prompt": WHAT, "images": ["file-no"]})

    error = refused.value
    assert (error.status, error.code, error.param) == (400, "upload_unknown", "images.0")
    assert str(error.request_id).startswith("req_")
    with pytest.raises(ServiceError, match="no service answers"):
        await AsyncClient("127.0.0.1:9").request("GET", "/livez")


async def test_a_repeated_key_is_the_same_job(asked: AsyncClient, worker: Worker) -> None:
    body = {"prompt": WHAT, "images": [data_url(picture())]}

    assert (await asked.submit(body, idempotency_key="k")).id == (await asked.submit(body, idempotency_key="k")).id


async def test_busy_services_and_proxies_are_asked_again_and_files_sent_whole(site: Site) -> None:
    busy = Reply(429, b'{"error": {"code": "queue_full", "message": "full"}}', {"retry-after": "0"})
    proxy = Reply(502, b"<html>", {"retry-after": "0"})
    site.replies = [busy, proxy, Reply(201, b'{"id": "file-1", "media_type": "image/png"}')]
    data = picture()
    async with AsyncClient(site.url) as client:
        assert (await client.upload(io.BytesIO(data))).id == "file-1"
        site.replies = [Reply(400, b'{"error": {"code": "empty_prompt", "message": "empty"}}')]
        with pytest.raises(ServiceError, match="empty"):
            await client.submit({})
        site.replies = [Reply(301, b"", {"location": "/x"})]
        with pytest.raises(ServiceError, match="but not as Sightline does"):
            await client.request("GET", "/livez")

    assert len(site.asked) == 5
    assert all(data in request.body for request in site.asked[:3])


def test_it_needs_nothing_of_the_service() -> None:
    code = "import sys, sightline.client; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert not {"api", "worker", "shared", "torch", "celery", "redis", "fastapi", "pydantic"} & set(done.stdout.split())
    assert (ROOT / "sightline" / "py.typed").exists()


async def _is(fact: bool) -> bool:  # noqa: FBT001
    return fact


async def _ready(client: AsyncClient) -> bool:
    return any(worker["phase"] == "ready" for worker in (await client.request("GET", "/v1/workers"))["data"])


@pytest.mark.parametrize("form", ["images", "file", "inline"])
async def test_a_file_that_is_sent_again_is_the_same_request(asked: AsyncClient, worker: Worker, form: str) -> None:
    """Who was killed between upload and answer sends the file again, and is given the job that there is."""

    async def send(data: bytes) -> str:
        reference = data_url(data) if form == "inline" else (await asked.upload(data)).id
        body = body_with(WHAT, [reference], []) if form == "images" else body_with(WHAT, [], [], [reference])
        return (await asked.submit(body, idempotency_key="k")).id

    assert await send(picture(RED)) == await send(picture(RED))
    with pytest.raises(ServiceError) as refused:
        await send(picture(BLUE))
    assert refused.value.code == "idempotency_key_reused"
