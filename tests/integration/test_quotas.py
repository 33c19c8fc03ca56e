"""What a key may do in a day, and what it used: counted once, whichever gateway took a job, and begun anew at midnight, UTC."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, RateLimitError
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from api.batches.waits import Waits
from shared.errors import CancelledByClient, EngineFailed, QuotaExceeded
from shared.jobs import JobStatus, Priority
from shared.settings import ROOT, Settings
from shared.store.api_keys import ApiKeys
from shared.store.batch_leases import Line
from shared.store.connection import connect
from shared.store.ids import new_id
from shared.store.jobs import JobStore
from shared.store.key_names import PREFIX
from shared.store.lua import USAGE_DAYS
from shared.store.usage import DAY_S, Usage, Used
from sightline.ports import free_port
from tests.chaos import clocked
from tests.claims import claim_job
from tests.integration.conftest import Worker, gateway_for, until
from tests.integration.served import client_of, served
from tests.integration.test_batch_store import REQUEST, Services, open_batch, services
from tests.integration.test_batches import ended, line, start
from tests.integration.test_commands import run
from tests.integration.test_job_store import OUTPUT
from tests.media import data_url, picture

__all__ = ["services"]
ASK = {"prompt": "x", "images": [data_url(picture())]}
VISION_TOKENS = OUTPUT.usage.vision_tokens


@pytest.fixture(autouse=True)
def _one_day() -> None:
    """Let a day that is about to end be over, so that no test touches two."""
    left_s = DAY_S - time.time() % DAY_S
    time.sleep(left_s + 1 if left_s < 30 else 0)


@pytest.fixture
def keyed(settings: Settings) -> Settings:
    return settings.model_copy(update={"require_keys": True})


@pytest.fixture
async def gateways(keyed: Settings) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Give two that share a Redis."""
    async with gateway_for(keyed) as one, gateway_for(keyed) as other:
        yield [one, other]


async def key_of(redis: Redis, **limits: Any) -> tuple[str, dict[str, str]]:
    key, secret = await ApiKeys(redis).create("a", **limits)
    return key.id, {"authorization": f"Bearer {secret}"}


async def submit(store: JobStore, settings: Settings, owner: str) -> str:
    job_id, _ = await store.submit(REQUEST, settings, owner=owner, job_id=new_id("job"))
    return job_id


async def end(store: JobStore, job_id: str, status: JobStatus = JobStatus.SUCCEEDED) -> None:
    claim = await claim_job(store, job_id)
    assert claim
    is_good = status is JobStatus.SUCCEEDED
    error = None if is_good else EngineFailed()
    assert await store.complete(claim, status, output=OUTPUT if is_good else None, error=error)


# --- quotas ---


async def test_two_gateways_take_a_days_jobs_together(gateways: list[httpx.AsyncClient], redis: Redis) -> None:
    _, headers = await key_of(redis, max_jobs_day=5)

    answers = await asyncio.gather(*(gateways[n % 2].post("/v1/jobs", json=ASK, headers=headers) for n in range(20)))

    assert sorted(answer.status_code for answer in answers) == [202] * 5 + [429] * 15
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["code"] == "quota_exceeded"
    assert "5 jobs" in refused.json()["detail"]
    left_s = DAY_S - (await redis.time())[0] % DAY_S
    assert 0 <= int(refused.headers["retry-after"]) - left_s <= 30
    assert refused.headers["x-should-retry"] == "false"
    assert [answer.status_code for answer in [await gateways[0].get("/v1/jobs", headers=headers)]] == [200]


async def test_answers_say_what_is_left(gateways: list[httpx.AsyncClient], redis: Redis, store: JobStore) -> None:
    _, headers = await key_of(redis, max_jobs_day=2, max_vision_tokens_day=100)
    told = []
    for n in range(3):
        answer = await gateways[n % 2].post("/v1/jobs", json=ASK, headers=headers)
        told.append((answer.headers["x-ratelimit-limit-jobs-day"], answer.headers["x-ratelimit-remaining-jobs-day"]))
        if answer.is_success:
            await end(store, answer.json()["id"])
            assert 0 < int(answer.headers["x-ratelimit-reset-jobs-day"].removesuffix("s")) <= DAY_S
    later = await gateways[0].get("/v1/jobs", headers=headers)

    assert told == [("2", "1"), ("2", "0"), ("2", "0")]
    assert later.headers["x-ratelimit-limit-vision-tokens-day"] == "100"
    assert later.headers["x-ratelimit-remaining-vision-tokens-day"] == "0"
    _, free = await key_of(redis)
    assert not [name for name in (await gateways[0].get("/v1/jobs", headers=free)).headers if name.startswith("x-ratelimit")]


async def test_a_repetition_is_answered_when_nothing_is_left(gateways: list[httpx.AsyncClient], redis: Redis) -> None:
    _, headers = await key_of(redis, max_jobs_day=1)
    first, again = [
        await gateway.post("/v1/jobs", json=ASK, headers=headers | {"idempotency-key": "k"}) for gateway in gateways
    ]

    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["id"] == again.json()["id"]


async def test_vision_tokens_count_when_jobs_end(store: JobStore, settings: Settings) -> None:
    owner, _ = await key_of(store.redis, max_vision_tokens_day=VISION_TOKENS + 1)
    jobs = [await submit(store, settings, owner)]
    await end(store, jobs[0])
    jobs.append(await submit(store, settings, owner))
    jobs.append(await submit(store, settings, owner))
    await end(store, jobs[1])

    with pytest.raises(QuotaExceeded, match=f"{VISION_TOKENS + 1} vision tokens"):
        await submit(store, settings, owner)

    await end(store, jobs[2])  # what was taken runs
    await submit(store, settings, "another")
    await ApiKeys(store.redis).limit(owner, max_vision_tokens_day=0)
    await submit(store, settings, owner)


async def test_chats_say_it_in_openais_words(keyed: Settings, redis: Redis) -> None:
    _, headers = await key_of(redis, max_jobs_day=1)
    async with served(keyed, batches=False) as url:
        async with httpx.AsyncClient(base_url=url, headers=headers) as client:
            await client.post("/v1/jobs", json=ASK)
        async with AsyncOpenAI(
            base_url=f"{url}/v1", api_key=headers["authorization"].split()[1], timeout=5, max_retries=2
        ) as openai:
            with pytest.raises(RateLimitError) as refused:
                await openai.chat.completions.create(model="qwen-vl", messages=[{"role": "user", "content": "x"}])

    assert refused.value.code == "insufficient_quota"


# --- batches wait ---


async def test_lines_have_a_place_in_the_day_since_they_were_taken(services: Services, redis: Redis) -> None:
    owner, _ = await key_of(redis, max_jobs_day=2)
    lease = await services.batches.lease((await open_batch(services, owner)).id, lease_s=60)
    assert lease
    await services.batches.move(lease, "in_progress")

    async def take(n: int) -> str:
        return await services.batches.take(lease, Line(n, 10 * (n - 1), 10, f"c{n}"), f"job_{n}", services.settings)

    async def job(job_id: str, **how: Any) -> None:
        await services.store.submit(REQUEST, services.settings, owner=owner, job_id=job_id, **how)

    assert [await take(n) for n in (1, 2)] == ["taken", "taken"]
    with pytest.raises(QuotaExceeded, match="2 jobs"):
        await take(3)
    with pytest.raises(QuotaExceeded):
        await job("job_chat", priority=Priority.INTERACTIVE)
    for n in (1, 2):
        await job(f"job_{n}", priority=Priority.BULK, lease=lease)
    with pytest.raises(QuotaExceeded):
        await take(3)
    await redis.hincrby(f"{PREFIX}owner:{owner}", "day", -1)  # type: ignore[misc]
    assert await take(3) == "taken"


async def test_a_batch_waits_says_why_and_goes_on(keyed: Settings, redis: Redis) -> None:
    owner, headers = await key_of(redis, max_jobs_day=2)
    secret = headers["authorization"].split()[1]
    async with Worker(keyed).running(), served(keyed) as url, client_of(url).with_options(api_key=secret) as client:
        batch_id = (await start(client, [line(n) for n in range(4)])).id
        await until(lambda: _completed(client, batch_id, 2))
        await asyncio.sleep(1)
        assert await _completed(client, batch_id, 2)
        waiting = (await client.batches.retrieve(batch_id)).errors
        assert waiting
        assert waiting.data
        assert (waiting.data[0].code, waiting.data[0].line) == ("waiting_for_quota", None)
        assert "2 jobs of its day" in (waiting.data[0].message or "")
        assert "midnight, UTC" in (waiting.data[0].message or "")

        await ApiKeys(redis).limit(owner, max_jobs_day=3)
        await until(lambda: _completed(client, batch_id, 3))
        message = await until(lambda: _why(client, batch_id))
        assert "3 jobs of its day" in message
        await ApiKeys(redis).limit(owner, max_jobs_day=0)

        batch = await until(lambda: ended(client, batch_id))
    assert batch.errors is None
    assert (batch.status, batch.request_counts.completed) == ("completed", 4)


async def _completed(client: AsyncOpenAI, batch_id: str, n: int) -> bool:
    batch = await client.batches.retrieve(batch_id)
    return bool(batch.status == "in_progress" and batch.request_counts and batch.request_counts.completed == n)


async def _why(client: AsyncOpenAI, batch_id: str) -> str:
    errors = (await client.batches.retrieve(batch_id)).errors
    return (errors and errors.data and errors.data[0].message) or ""


async def test_what_an_earlier_runner_waited_for_is_told_no_longer(services: Services) -> None:
    batch = await open_batch(services, "me")
    lease = await services.batches.lease(batch.id, lease_s=60)
    assert lease
    first = Waits(services.batches, lease, batch)
    assert await first.because("waiting_for_quota", "no jobs today")
    assert await first.because("waiting_for_storage", "a full disk")
    assert not await first.because("waiting_for_storage", "a full disk")
    assert (await services.batches.get(batch.id)).waiting == "no jobs today"

    second = Waits(services.batches, lease, await services.batches.get(batch.id))
    assert await second.no_longer("waiting_for_quota")
    assert (await services.batches.get(batch.id)).waiting == ""
    assert await first.no_longer("waiting_for_quota")
    now = await services.batches.get(batch.id)
    assert (now.waiting_code, now.waiting) == ("waiting_for_storage", "a full disk")


# --- midnight ---


@pytest.fixture
def clock(tmp_path: Path) -> Iterator[tuple[str, Callable[[int], None]]]:
    """Give a Valkey whose clock stands five minutes before midnight, and what sets it ahead from there, seconds."""
    if clocked.library() is None:
        pytest.skip("needs libfaketime: apt-get install faketime")
    file, port = tmp_path / "clock", free_port()
    begin_s = DAY_S - int(time.time()) % DAY_S - 300

    def set_ahead(by_s: int) -> None:
        file.write_text(f"{begin_s + by_s:+d}")

    set_ahead(0)
    command = [sys.executable, "-m", "tests.chaos.clocked", str(port), str(tmp_path / "redis")]
    server = subprocess.Popen(command, cwd=ROOT, env=os.environ | {clocked.FILE: str(file)})
    with SyncRedis(port=port) as redis:
        for _ in range(500):
            with suppress(RedisConnectionError):
                redis.ping()
                break
            time.sleep(0.02)
    yield f"redis://127.0.0.1:{port}/0", set_ahead
    server.kill()
    server.wait()


async def test_midnight_gives_a_new_day_on_all_gateways(keyed: Settings, clock: tuple[str, Callable[[int], None]]) -> None:
    url, set_ahead = clock
    keyed = keyed.model_copy(update={"redis_url": url})
    async with connect(keyed) as redis, gateway_for(keyed) as one, gateway_for(keyed) as other:
        owner, headers = await key_of(redis, max_jobs_day=2)

        async def ask(gateway: httpx.AsyncClient) -> tuple[int, str]:
            answer = await gateway.post("/v1/jobs", json=ASK, headers=headers)
            return answer.status_code, answer.headers["x-ratelimit-remaining-jobs-day"]

        assert [await ask(gateway) for gateway in (one, other, one)] == [(202, "1"), (202, "0"), (429, "0")]
        refused = await other.post("/v1/jobs", json=ASK, headers=headers)
        assert 200 < int(refused.headers["retry-after"]) <= 300
        today = await Usage(redis).today()

        set_ahead(301)
        assert [await ask(gateway) for gateway in (other, one, other)] == [(202, "1"), (202, "0"), (429, "0")]
        await ApiKeys(redis).limit(owner, max_jobs_day=3)
        set_ahead(0)  # that day goes on as it was
        assert [await ask(gateway) for gateway in (one, other)] == [(202, "0"), (429, "0")]
        set_ahead(302)
        assert [await ask(gateway) for gateway in (one, other)] == [(202, "0"), (429, "0")]

        used = (await other.get("/v1/usage", headers=headers)).json()["data"]
        assert [(row["day"], row["jobs"]) for row in used] == [(str(today), 3), (str(await Usage(redis).today()), 3)]
        keys = [key async for key in redis.scan_iter(match=f"{PREFIX}usage:*")]
        assert [DAY_S * (USAGE_DAYS - 1) < await redis.ttl(key) <= DAY_S * (USAGE_DAYS + 1) for key in keys] == [True] * 2


# --- usage ---


async def test_usage_is_by_key_day_and_model(gateways: list[httpx.AsyncClient], store: JobStore, settings: Settings) -> None:
    owner, headers = await key_of(store.redis)
    other = settings.model_copy(update={"served_model_name": "other model"})
    jobs = [await submit(store, settings, owner) for _ in range(4)]
    await submit(store, other, owner)
    await submit(store, settings, "another")
    await end(store, jobs[0])
    await end(store, jobs[1])
    await end(store, jobs[2], JobStatus.FAILED)
    await store.cancel(jobs[3], CancelledByClient())

    told = await gateways[0].get("/v1/usage", headers=headers)
    day = str(await Usage(store.redis).today())
    tokens = {"prompt_tokens": 180, "vision_tokens": 128, "output_tokens": 12}
    none = dict.fromkeys(tokens, 0)
    assert told.json() == {
        "object": "list",
        "data": [
            {"key": owner, "day": day, "model": "other model", "jobs": 1, "succeeded": 0, "failed": 0, "cancelled": 0, **none},
            {"key": owner, "day": day, "model": "qwen-vl", "jobs": 4, "succeeded": 2, "failed": 1, "cancelled": 1, **tokens},
        ],
    }
    tables = [
        await gateways[1].get("/v1/usage", headers=headers | {"accept": "text/csv"}),
        await gateways[1].get("/v1/usage?format=csv", headers=headers),
    ]
    for table in tables:
        assert table.headers["content-type"].startswith("text/csv")
        rows = list(csv.DictReader(io.StringIO(table.text)))
        assert rows == [{name: str(value) for name, value in row.items()} for row in told.json()["data"]]
    as_json = await gateways[1].get("/v1/usage?format=json", headers=headers | {"accept": "text/csv"})
    assert as_json.json() == told.json()


async def test_usage_is_of_the_days_that_are_asked_for(
    gateways: list[httpx.AsyncClient], store: JobStore, settings: Settings
) -> None:
    owner, headers = await key_of(store.redis)
    today = await Usage(store.redis).today()
    number = (await store.redis.time())[0] // DAY_S
    for ago in (95, 60, 3):
        kept = f"{PREFIX}usage:{owner}:{number - ago}"
        await store.redis.hset(kept, "qwen-vl", f"{ago} 0 0 0 0 0 0")  # type: ignore[misc]
    await submit(store, settings, owner)

    async def jobs(**asked: Any) -> list[int]:
        answer = await gateways[0].get("/v1/usage", params=asked, headers=headers)
        return [row["jobs"] for row in answer.json()["data"]]

    assert await jobs() == [3, 1]
    assert await jobs(since="2020-01-01") == [60, 3, 1]
    assert await jobs(until=str(today.replace(year=today.year + 9))) == [3, 1]
    assert await jobs(since=DAY_S * (number - 3) + 1, until=DAY_S * (number - 3) + 2) == [3]
    refused = await gateways[0].get("/v1/usage?since=2026-11-02&until=2026-11-01", headers=headers)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, None)


async def test_who_administers_keys_sees_what_all_used(
    gateways: list[httpx.AsyncClient], store: JobStore, settings: Settings
) -> None:
    owners = [(await key_of(store.redis, admin=n == 0)) for n in range(3)]
    for owner, _ in owners:
        await submit(store, settings, owner)
    (root, headers), (one, theirs), (gone, _) = owners
    await ApiKeys(store.redis).revoke(gone)

    async def seen(key: str, headers: dict[str, str]) -> list[str]:
        answer = await gateways[0].get("/v1/usage", params={"key": key}, headers=headers)
        return [row["key"] for row in answer.json()["data"]] if answer.is_success else [answer.json()["error"]["code"]]

    assert await seen("all", headers) == [gone, root, one]
    assert await seen(one, headers) == [one]
    assert await seen(one, theirs) == [one]
    for key in ("all", root):
        assert await seen(key, theirs) == ["admin_key_required"]


async def test_a_job_that_runs_again_counts_once(store: JobStore, settings: Settings) -> None:
    job_id = await submit(store, settings, "me")
    claim = await claim_job(store, job_id)
    assert claim
    await store.release(claim, "retry")
    await end(store, job_id)

    usage = Usage(store.redis)
    (used,) = await usage.of("me", await usage.today(), await usage.today())
    assert (used.jobs, used.succeeded, used.vision_tokens) == (1, 1, VISION_TOKENS)


async def test_what_a_revoked_key_used_is_known_for_as_long(store: JobStore, settings: Settings) -> None:
    owner, _ = await key_of(store.redis)
    job_id = await submit(store, settings, owner)
    assert await ApiKeys(store.redis).revoke(owner)
    assert not await ApiKeys(store.redis).revoke(owner)
    await end(store, job_id)

    table = await run("keys", "usage", "--days", "1", SIGHTLINE_REDIS_URL=settings.redis_url)

    rows = list(csv.DictReader(io.StringIO(table.stdout)))
    assert [(row["key"], row["jobs"], row["vision_tokens"]) for row in rows] == [(owner, "1", str(VISION_TOKENS))]
    assert 0 < await store.redis.ttl(f"{PREFIX}owner:{owner}") <= (USAGE_DAYS + 1) * DAY_S


async def test_commands_set_and_show_quotas(settings: Settings, redis: Redis) -> None:
    async def keys(*command: str) -> str:
        return (await run("keys", *command, SIGHTLINE_REDIS_URL=settings.redis_url)).stdout

    await keys("create", "a", "--max-jobs-day", "7", "--max-vision-tokens-day", "9000000000")
    (key,) = await ApiKeys(redis).list_keys()
    await keys("limit", key.id, "--max-jobs-day", "8")

    shown = json.loads(await keys("list", "--json"))
    assert (shown["max_jobs_day"], shown["max_vision_tokens_day"]) == (8, 9_000_000_000)
    assert "8 jobs/day, 9,000,000,000 vision tokens/day" in await keys("list")
    left = await Usage(redis).left(key.id)
    assert (left.jobs, left.vision_tokens) == (8, 9_000_000_000)


async def test_counts_that_are_damaged_are_left_out(store: JobStore, settings: Settings) -> None:
    await submit(store, settings, "me")
    await store.redis.hset(f"{PREFIX}owner:me", mapping={"used:qwen-vl": "x", "used:odd": 1, "day": "x"})  # type: ignore[misc]
    await end(store, await submit(store, settings, "me"))

    usage = Usage(store.redis)
    today = await usage.today()
    assert await usage.of("me", today, today) == [
        Used("me", today, "qwen-vl", jobs=1, succeeded=1, prompt_tokens=90, vision_tokens=64, output_tokens=6)
    ]
