"""The event log: what readers are told equals what the record says, whenever they come and however often they leave."""

from __future__ import annotations

import asyncio
import random

import pytest
from redis.asyncio import Redis

from shared.aio import cancel_all
from shared.blobs import Blobs
from shared.errors import CancelledByClient
from shared.jobs import Job, Stage
from shared.settings import Settings
from shared.store.event_log import Entry, EventLog
from shared.store.jobs import JobStore
from tests.integration.conftest import Worker, until
from tests.integration.test_job_store import OUTPUT, Records
from tests.integration.test_runtime import Jobs

WORDS = "一个 红色的 圆 和 two blue squares, 然后 nothing more"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"lease_s": 2.0})


@pytest.fixture
def log(redis: Redis) -> EventLog:
    return EventLog(redis)


@pytest.fixture
def records(store: JobStore, settings: Settings) -> Records:
    return Records(store, settings)


@pytest.fixture
def jobs(store: JobStore, blobs: Blobs, settings: Settings, redis: Redis) -> Jobs:
    return Jobs(store, blobs, settings, redis)


async def read(log: EventLog, job_id: str, *, after: str | None = None) -> list[Entry]:
    """Read a job's events to the end."""
    async with asyncio.timeout(30):
        return [entry async for entry in log.follow(job_id, after=after)]


def text_of(entries: list[Entry]) -> str:
    """Join the deltas as a client does."""
    text = ""
    for entry in entries:
        text = "" if entry.type == "job.reset" else text + entry.data.get("text", "")
    return text


def output_of(job: Job) -> str:
    assert job.output is not None
    return job.output.text


async def test_a_job_tells_its_whole_life_in_order(records: Records, log: EventLog) -> None:
    job_id = await records.submit()
    claim = await records.claim(job_id)
    await records.stage(claim, Stage.GENERATING)
    await records.stage(claim, Stage.GENERATING)
    await records.end(claim, OUTPUT)

    entries = await read(log, job_id)

    assert [entry.type for entry in entries] == ["job.queued", "job.running", "job.stage", "job.delta", "job.succeeded"]
    assert [int(entry.id) for entry in entries] == [1, 2, 3, 4, 5]
    times_ms = [entry.data.pop("after_ms") for entry in entries[:3]]
    assert 0 <= times_ms[0] <= times_ms[1] <= times_ms[2] < 60_000
    assert entries[1].data == {"id": job_id, "attempt": 1}
    assert entries[2].data == {"id": job_id, "stage": "generating"}
    assert entries[3].data == {"id": job_id, "text": OUTPUT.text}
    assert entries[4].data == (await records.store.get(job_id)).model_dump(mode="json")


async def test_a_reader_goes_on_after_any_event(records: Records, log: EventLog) -> None:
    job_id = await records.submit()
    await records.end(await records.claim(job_id), OUTPUT)
    whole = await read(log, job_id)

    for n, entry in enumerate(whole):
        assert await read(log, job_id, after=entry.id) == whole[n + 1 :]


async def test_a_reader_that_came_early_hears_of_a_cancel(records: Records, log: EventLog) -> None:
    job_id = await records.submit()
    await log.watch(job_id)
    reading = asyncio.create_task(read(log, job_id))
    await asyncio.sleep(0.1)

    await records.store.cancel(job_id, CancelledByClient())

    assert [entry.type for entry in await reading] == ["job.queued", "job.cancelled"]
    assert (await reading)[-1].data["error"]["code"] == "cancelled"


async def test_what_the_cap_took_is_named(records: Records, log: EventLog) -> None:
    job_id = await records.submit()
    await records.end(await records.claim(job_id), OUTPUT)
    await records.redis.hset(f"sightline:{{sightline}}:job:{job_id}", "hist", "")

    whole = await read(log, job_id)

    assert [entry.type for entry in whole] == ["history_truncated", "job.delta", "job.succeeded"]
    assert await read(log, job_id, after=whole[0].id) == whole[1:]


async def test_text_that_the_cap_took_is_named(records: Records, log: EventLog) -> None:
    job_id = await records.submit()
    claim = await records.claim(job_id)
    await log.append_deltas([(claim, 0, "一个")])
    await log.append_deltas([(claim, 6, "红色")])
    await records.end(claim, OUTPUT)
    await records.redis.xtrim(f"sightline:{{sightline}}:events:{job_id}", maxlen=1, approximate=False)

    whole = await read(log, job_id)

    assert [entry.type for entry in whole[2:]] == ["history_truncated", "job.delta", "job.delta", "job.succeeded"]
    for n, entry in enumerate(whole):
        assert await read(log, job_id, after=entry.id) == whole[n + 1 :]


async def test_only_a_watched_job_has_a_stream(records: Records, log: EventLog) -> None:
    quiet, watched = await records.submit(), await records.submit()
    await log.watch(watched)
    for job_id in (quiet, watched):
        await records.end(await records.claim(job_id), OUTPUT)

    assert await records.redis.keys("sightline:{sightline}:events:*") == []
    assert [e.type for e in await read(log, quiet)] == [e.type for e in await read(log, watched)]


async def test_the_history_of_a_job_that_is_handed_back_all_day_stays_short(records: Records, log: EventLog) -> None:
    job_id = await records.submit()
    for _ in range(200):
        await records.store.release(await records.claim(job_id), "leave")

    history = await records.redis.hget(f"sightline:{{sightline}}:job:{job_id}", "hist")
    assert history is not None
    assert 1500 < len(history) <= 2000
    await records.end(await records.claim(job_id), OUTPUT)
    entries = await read(log, job_id)
    assert [entry.type for entry in (entries[0], entries[-1])] == ["history_truncated", "job.succeeded"]
    assert [int(entry.id) for entry in entries] == list(range(int(entries[0].id), 405))


async def test_texts_and_states_come_in_the_order_in_which_they_happened(records: Records, log: EventLog) -> None:
    """More text than a page, with a state in the midst of it."""
    job_id = await records.submit()
    claim = await records.claim(job_id)
    for n in range(250):
        await log.append_deltas([(claim, n, "x")])
        if n == 120:
            await records.stage(claim, Stage.GENERATING)
    await records.end(claim, OUTPUT)

    entries = await read(log, job_id)

    assert [int(entry.id) for entry in entries] == [*range(1, 254), 255]
    assert entries[123].type == "job.stage"


async def test_the_log_goes_with_the_record(records: Records, log: EventLog) -> None:
    job_id = await records.submit(result_ttl_s=100)
    await log.watch(job_id)
    claim = await records.claim(job_id)
    await log.append_deltas([(claim, 0, "一个")])
    await records.end(claim, OUTPUT)

    assert await records.redis.pttl(f"sightline:{{sightline}}:events:{job_id}") == pytest.approx(100_000, abs=5_000)
    await records.redis.delete(f"sightline:{{sightline}}:job:{job_id}", f"sightline:{{sightline}}:events:{job_id}")
    assert await read(log, job_id) == []
    await log.watch(job_id)
    assert await records.redis.keys("sightline:{sightline}:job:*") == []


async def test_only_the_holder_of_the_claim_adds_text_and_nothing_twice(records: Records, log: EventLog) -> None:
    job_id = await records.submit()
    claim = await records.claim(job_id)

    assert await log.append_deltas([(claim, 0, "一个")]) == [True]
    assert await log.append_deltas([(claim, 0, "一个红色")]) == [True]  # the reply to the first was lost
    assert await log.append_deltas([(claim, 99, "?")]) == [True]  # Redis has forgotten what came between
    await records.store.release(claim, "retry")
    assert await log.append_deltas([(claim, 12, "的")]) == [False]
    again = await records.claim(job_id)
    assert await log.append_deltas([(again, 0, "一个红")]) == [True]
    await records.end(again, OUTPUT)

    entries = await read(log, job_id)
    texts = [entry.data.get("text", entry.type) for entry in entries if entry.type in {"job.delta", "job.reset"}]
    assert texts == ["一个", "红色", "job.reset", "一个红", "色的圆。"]
    assert text_of(entries) == OUTPUT.text


async def test_a_redis_that_forgot_events_tells_the_reader_to_start_again(records: Records, log: EventLog) -> None:
    job_id = await records.submit()
    await records.end(await records.claim(job_id), OUTPUT)

    entries = await read(log, job_id, after="9")

    assert entries[0].type == "job.reset"
    assert entries[1:] == await read(log, job_id)


async def test_a_watched_job_streams_while_it_runs(jobs: Jobs, log: EventLog, worker: Worker) -> None:
    job_id = await jobs.submit(f"!speak 0.06 {WORDS}", watched=True)

    entries = await read(log, job_id)

    deltas = [entry for entry in entries if entry.type == "job.delta"]
    assert len(deltas) > 3
    assert text_of(entries) == output_of(await jobs.end_of(job_id))
    assert worker.crashes == []


async def test_an_unwatched_job_is_not_streamed_and_yet_told_whole(jobs: Jobs, log: EventLog, worker: Worker) -> None:
    job_id = await jobs.submit(f"!speak {WORDS}")
    job = await jobs.end_of(job_id)

    entries = await read(log, job_id)

    assert [entry.data["text"] for entry in entries if entry.type == "job.delta"] == [output_of(job)]
    assert await jobs.redis.hget(f"sightline:{{sightline}}:job:{job_id}", "said") is None


async def test_a_second_attempt_starts_the_text_again(jobs: Jobs, log: EventLog, worker: Worker) -> None:
    job_id = await jobs.submit(f"!speak 0.02 !slow 0.2 !fail 1 {WORDS}", watched=True)
    async for entry in log.follow(job_id):
        if entry.type == "job.reset":
            break
    await jobs.ring_now(job_id)

    entries = await read(log, job_id)

    assert [entry.type for entry in entries].count("job.reset") == 1
    assert text_of(entries) == output_of(await jobs.end_of(job_id))


async def test_a_cancelled_job_streams_what_there_is(jobs: Jobs, log: EventLog, worker: Worker) -> None:
    job_id = await jobs.submit(f"!speak 5 {WORDS}", watched=True)
    await until(lambda: jobs.redis.hget(f"sightline:{{sightline}}:job:{job_id}", "said"))

    await jobs.store.cancel(job_id, CancelledByClient())

    entries = await read(log, job_id)
    assert entries[-1].type == "job.cancelled"
    assert text_of(entries) == entries[-1].data["output"]["text"] != ""


async def test_a_reader_that_is_cut_off_again_and_again_misses_nothing(jobs: Jobs, log: EventLog, worker: Worker) -> None:
    job_id = await jobs.submit(f"!speak 0.01 {WORDS * 5}", watched=True)
    entries, dice, cuts = list[Entry](), random.Random(4), 0

    while not entries or not entries[-1].is_final:
        stop_at = len(entries) + dice.randint(1, 3)
        async for entry in log.follow(job_id, after=entries[-1].id if entries else None):
            entries.append(entry)
            if len(entries) == stop_at:
                cuts += 1
                break

    assert cuts > 3
    assert len({entry.id for entry in entries}) == len(entries)
    assert text_of(entries) == output_of(await jobs.end_of(job_id))


async def test_a_feed_is_written_as_long_as_somebody_reads_it(
    records: Records, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.store.event_log.REOPEN_S", 0.05)
    feed, told = log.follow_owner("me"), list[str]()
    assert (await anext(feed)).type == "feed.opened"

    async def listen() -> None:
        async for entry in feed:
            told.append(entry.type)

    listening = asyncio.create_task(listen())
    await asyncio.sleep(0.1)
    await records.redis.hset(
        "sightline:{sightline}:owner:me", "feed_until_ms", 2**50
    )  # which only its reader makes an earlier time
    await records.submit()
    await until(lambda: _is_renewed(records))
    await until(lambda: _has(told, 1))
    await cancel_all({listening})

    assert told == ["job.queued"]
    await records.redis.hset("sightline:{sightline}:owner:me", "feed_until_ms", 1)
    await records.submit()
    anew = log.follow_owner("me", after="1-0")
    assert [(await anext(anew)).type for _ in range(2)] == ["feed.opened", "history_truncated"]


async def _is_renewed(records: Records) -> bool:
    return int(await records.redis.hget("sightline:{sightline}:owner:me", "feed_until_ms") or 0) < 2**50  # type: ignore[misc]


async def _has(told: list[str], n: int) -> bool:
    return len(told) == n


async def test_many_readers_share_one_connection(records: Records, log: EventLog) -> None:
    """More readers than the pool has connections, and calls besides."""
    job_id, begun = await records.submit(), list[str]()

    async def listen() -> str:
        async for entry in log.follow(job_id):
            begun.append(entry.id)
        return entry.type

    readers = [asyncio.create_task(listen()) for _ in range(150)]

    async def all_have_begun() -> bool:
        return len(begun) == len(readers)

    await until(all_have_begun)
    assert (await records.store.get(job_id)).status == "queued"
    await records.store.cancel(job_id, CancelledByClient())

    assert set(await asyncio.gather(*readers)) == {"job.cancelled"}
