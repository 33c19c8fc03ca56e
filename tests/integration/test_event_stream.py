"""Streams of events off a real gateway's process, whose readers come late, are cut off, or stay when it leaves."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator

import httpx
import pytest
from redis.asyncio import Redis

from shared.blobs import Blobs
from shared.errors import CancelledByClient
from shared.settings import Settings
from shared.store.jobs import JobStore
from tests.integration.conftest import Worker, serving, until
from tests.integration.test_job_store import OUTPUT, Records
from tests.integration.test_runtime import Jobs
from tests.media import data_url, picture
from tests.sse import Told, tell, text_of

WORDS = "一个 红色的 圆 和 two blue squares, 然后 nothing more " * 4


@pytest.fixture
async def site(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(settings) as (client, _):
        yield client


@pytest.fixture
def records(store: JobStore, settings: Settings) -> Records:
    return Records(store, settings)


@pytest.fixture
def jobs(store: JobStore, blobs: Blobs, settings: Settings, redis: Redis) -> Jobs:
    return Jobs(store, blobs, settings, redis, owner="local")


async def read(client: httpx.AsyncClient, job_id: str, *, after: str | None = None) -> list[Told]:
    async with asyncio.timeout(60):
        return [event async for event in tell(client, f"/v1/jobs/{job_id}/events", after=after)]


async def test_what_is_streamed_is_what_is_polled(records: Records, gateway: httpx.AsyncClient) -> None:
    job_id = await records.submit(owner="local", metadata={"相册": "夏天"})
    await records.end(await records.claim(job_id), OUTPUT)

    events = await read(gateway, job_id)

    assert [event.type for event in events] == ["job.queued", "job.running", "job.delta", "job.succeeded"]
    assert events[-1].data == (await gateway.get(f"/v1/jobs/{job_id}")).json()
    assert await read(gateway, job_id, after=events[1].id) == events[2:]
    assert (await gateway.get(f"/v1/jobs/{job_id}/events", headers={"last-event-id": events[-1].id})).status_code == 204


@pytest.mark.parametrize("event_id", ["x", "-1", "1-", "9" * 30, "1;2"])
async def test_an_event_id_that_is_none_is_refused(event_id: str, records: Records, gateway: httpx.AsyncClient) -> None:
    job_id = await records.submit(owner="local")

    for path in (f"/v1/jobs/{job_id}/events", "/v1/events"):
        answer = await gateway.get(path, headers={"last-event-id": event_id})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "last-event-id")


async def test_other_peoples_jobs_have_no_events(records: Records, gateway: httpx.AsyncClient) -> None:
    job_id = await records.submit(owner="somebody else")

    answer = await gateway.get(f"/v1/jobs/{job_id}/events")

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_readers_that_are_cut_off_at_random_get_the_whole_text(
    jobs: Jobs, site: httpx.AsyncClient, worker: Worker
) -> None:
    job_id = await jobs.submit(f"!speak 0.02 {WORDS}", watched=True)
    events, dice, cuts = list[Told](), random.Random(11), 0

    while not events or events[-1].type != "job.succeeded":
        stop_at = len(events) + dice.randint(1, 2)
        async for event in tell(site, f"/v1/jobs/{job_id}/events", after=events[-1].id if events else None):
            events.append(event)
            if len(events) == stop_at:
                cuts += 1
                break

    assert cuts > 5
    assert text_of(events) == events[-1].data["output"]["text"]
    assert WORDS.strip() in text_of(events)


async def test_the_stream_asks_the_worker_for_the_text(jobs: Jobs, site: httpx.AsyncClient, settings: Settings) -> None:
    """Nobody asked when the job came; its stream is opened before it runs."""
    job_id = await jobs.submit(f"!speak 0.06 {WORDS[:100]}")
    stream = tell(site, f"/v1/jobs/{job_id}/events")
    events = [await anext(stream)]
    async with Worker(settings).running():
        events += [event async for event in stream]

    assert sum(event.type == "job.delta" for event in events) > 2
    assert text_of(events) == events[-1].data["output"]["text"]


async def test_the_feed_tells_of_every_job_and_goes_on_where_it_was(records: Records, site: httpx.AsyncClient) -> None:
    stream = tell(site, "/v1/events")
    opened = await anext(stream)
    assert opened.type == "feed.opened"
    await records.submit(owner="somebody else")
    first, second = await records.submit(owner="local"), await records.submit(owner="local")
    await records.store.cancel(second, CancelledByClient())

    told = [await anext(stream) for _ in range(3)]
    await stream.aclose()
    again = tell(site, "/v1/events", after=told[0].id)

    assert [(event.type, event.data["id"]) for event in told] == [
        ("job.queued", first),
        ("job.queued", second),
        ("job.cancelled", second),
    ]
    assert (await anext(again)).type == "feed.opened"
    assert [await anext(again), await anext(again)] == told[1:]
    await again.aclose()
    await records.redis.xtrim("sightline:{sightline}:feed:local", maxlen=1, approximate=False)
    late = tell(site, "/v1/events", after=told[0].id)
    assert [(await anext(late)).type for _ in range(3)] == ["feed.opened", "history_truncated", "job.cancelled"]
    await late.aclose()


async def test_a_gateway_leaves_though_many_streams_are_open(records: Records, settings: Settings) -> None:
    job_id = await records.submit(owner="local")
    async with serving(settings) as (client, process):
        opened = list[str]()

        async def listen() -> Told:
            async for event in tell(client, f"/v1/jobs/{job_id}/events"):
                opened.append(event.type)
            return event

        readers = [asyncio.create_task(listen()) for _ in range(50)]
        await until(lambda: _all_open(opened, 50), timeout_s=60)
        process.send_signal(signal.SIGTERM)

        assert await asyncio.to_thread(process.wait, 30) in {0, -signal.SIGTERM}
        ends = await asyncio.gather(*readers)  # each stream was ended as HTTP has it, not cut off

    # It has no id of its own: a reader that comes back goes on after the last event that it was told.
    assert {(end.id, end.type, end.data["error"]["code"]) for end in ends} == {("1", "gateway.restarting", "restarting")}


async def _all_open(opened: list[str], n: int) -> bool:
    return len(opened) >= n


async def test_a_job_that_is_to_be_watched_tells_its_text_from_the_first_word_on(
    site: httpx.AsyncClient, worker: Worker, redis: Redis
) -> None:
    body = {"prompt": f"!speak 0.02 {WORDS}", "images": [data_url(picture())]}
    texts = {}
    for prefer in ("watch", "wait=0, watch", "wait=0"):
        answer = await site.post("/v1/jobs", json=body, headers={"prefer": prefer})
        assert answer.headers["preference-applied"] == prefer
        job_id = answer.json()["id"]
        await until(lambda job_id=job_id: is_ended(site, job_id))
        texts[prefer] = [event.data["text"] for event in await read(site, job_id) if event.type == "job.delta"]

    assert len(texts["watch"]) > 1
    assert len(texts["wait=0, watch"]) > 1
    assert len(texts["wait=0"]) == 1, "nobody asked for its text while it was generated"


async def is_ended(site: httpx.AsyncClient, job_id: str) -> bool:
    return (await site.get(f"/v1/jobs/{job_id}")).json()["status"] == "succeeded"
