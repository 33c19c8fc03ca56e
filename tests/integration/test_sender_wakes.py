"""A sender hears of what is due, whoever makes it due; and its process needs no Celery, and leaves in order."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from shared.errors import CancelledByClient
from shared.settings import ROOT, Settings
from shared.store.connection import connect
from shared.store.endpoints import Endpoints
from shared.store.jobs import JobStore
from tests.conftest import WEBHOOK_SECRET
from tests.integration.conftest import Reply, Site, until
from tests.integration.test_job_store import OUTPUT, Records
from tests.integration.test_sender import sending
from worker.webhooks import sender as webhook


@pytest.fixture
def records(store: JobStore, settings: Settings) -> Records:
    return Records(store, settings)


@pytest.fixture
async def listening(records: Records, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Run a sender that looks once, and then only when it hears something."""
    monkeypatch.setattr(webhook, "POLL_S", 3600)
    async with sending(settings):
        await until(lambda: _has_listeners(records))
        yield


async def _has_listeners(records: Records) -> bool:
    return bool(dict(await records.redis.pubsub_numsub("sightline:{sightline}:deliveries"))["sightline:{sightline}:deliveries"])


async def _has_failed(records: Records, times: int) -> bool:
    return all(
        [
            await records.redis.hget(f"sightline:{{sightline}}:target:{t}", "failures") == str(times)
            for t in await records.targets()
        ]
    )  # type: ignore[misc]


async def _is(value: object) -> object:
    return value


async def ended(records: Records, url: str) -> None:
    await records.end(await records.claim(await records.submit(webhook={"url": url})), OUTPUT)


async def cancelled(records: Records, url: str) -> None:
    await records.store.cancel(await records.submit(webhook={"url": url}), CancelledByClient())


async def begun(records: Records, url: str) -> None:
    await records.claim(await records.submit(webhook={"url": url, "events": ["job.running"]}))


async def lost(records: Records, url: str) -> None:
    job_id = await records.submit(webhook={"url": url})
    await records.claim(job_id)
    await records.expire_lease(job_id)
    await records.rescue(max_attempts=1)


async def for_an_endpoint(records: Records, url: str) -> None:
    endpoints = Endpoints(records.redis)
    await endpoints.create(owner="me", name="x", url=url, events=["job.succeeded"], payload="full")
    await records.end(await records.claim(await records.submit()), OUTPUT)


async def recovered(records: Records, url: str) -> None:
    endpoints = Endpoints(records.redis)
    await endpoints.create(owner="me", name="x", url=url, events=["job.failed"], payload="full")  # so that there is a feed
    await records.end(await records.claim(await records.submit()), OUTPUT)
    endpoint = await endpoints.create(owner="me", name="x", url=url, events=["job.succeeded"], payload="full")
    assert await records.outbox.recover(endpoint.id, since=0) == 1


WAYS = [ended, cancelled, begun, lost, for_an_endpoint, recovered]


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize("make_due", WAYS)
async def test_what_becomes_due_is_heard_of(
    make_due: Callable[[Records, str], Awaitable[None]], records: Records, site: Site
) -> None:
    await make_due(records, site.url)

    await until(lambda: _is(site.asked))


@pytest.mark.usefixtures("listening")
async def test_what_is_to_be_delivered_again_is_heard_of(records: Records, site: Site) -> None:
    site.replies = [Reply(500)] * 5 + [Reply(204)]  # its target is paused by now
    job_ids = [await records.submit(webhook={"url": site.url}) for _ in range(5)]
    for job_id in job_ids:
        await records.end(await records.claim(job_id), OUTPUT)
    await until(lambda: _has_failed(records, 5))

    await records.outbox.redeliver(job_ids[0])

    await until(lambda: _is(len(site.asked) == 6))


async def test_one_message_tells_of_all_that_a_script_made_due(records: Records) -> None:
    endpoints = Endpoints(records.redis)
    for n in range(3):
        await endpoints.create(owner="me", name="x", url=f"https://{n}.example.com", events=["job.succeeded"], payload="full")
    claim = await records.claim(await records.submit(webhook={"url": "https://example.com"}))
    async with records.redis.pubsub() as heard:
        await heard.subscribe("sightline:{sightline}:deliveries")
        await heard.get_message(timeout=5)
        await records.end(claim, OUTPUT)
        await records.redis.publish("sightline:{sightline}:deliveries", "that was all")
        messages = [await heard.get_message(timeout=5) for _ in range(2)]

    assert [message["data"] for message in messages] == ["", "that was all"]


# --- the process ---


@asynccontextmanager
async def process(settings: Settings, **own: str) -> AsyncIterator[subprocess.Popen[bytes]]:
    environment = {
        "SIGHTLINE_REDIS_URL": settings.redis_url,
        "SIGHTLINE_ALLOW_NETWORKS": "127.0.0.0/8",
        "SIGHTLINE_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "SIGHTLINE_LOG_JSON": "true",
    }
    command = [sys.executable, "-m", "worker.main", "webhooks"]
    started = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment, **own}, stderr=subprocess.PIPE)  # noqa: ASYNC220
    try:
        yield started
    finally:
        started.kill()
        started.wait()
        assert started.stderr
        started.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_process_told_to_leave_finishes_what_it_began(
    number: signal.Signals, records: Records, settings: Settings, site: Site
) -> None:
    site.replies = [Reply(204, delay_s=1.0)]
    await ended(records, site.url)
    async with process(settings) as sender:
        await until(lambda: _is(site.asked))
        sender.send_signal(number)
        await asyncio.to_thread(sender.communicate)

    assert sender.returncode == 0
    assert len(site.asked) == 1
    assert await records.redis.zcard("sightline:{sightline}:due") == 0
    assert await records.redis.keys("*celery*") == []


async def test_a_process_told_twice_leaves_the_rest_to_another(records: Records, settings: Settings, site: Site) -> None:
    site.replies = [Reply(204, delay_s=60)]
    await ended(records, site.url)
    async with process(settings, SIGHTLINE_WEBHOOK_TIMEOUT_S="300") as sender:
        await until(lambda: _is(site.asked))
        for _ in range(2):
            sender.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.2)  # else both are one to the kernel
        await asyncio.to_thread(sender.communicate)

    assert sender.returncode == 0
    async with connect(settings) as redis:
        assert await redis.zcard("sightline:{sightline}:due") == 1


async def test_a_secret_that_is_none_stops_the_process_with_one_line(settings: Settings) -> None:
    async with process(settings, SIGHTLINE_WEBHOOK_SECRET="whsec_not base64") as sender:
        _, log = await asyncio.to_thread(sender.communicate)

    assert sender.returncode == 1
    assert b"sightline secret" in log
    assert b"Traceback" not in log
