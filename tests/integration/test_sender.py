"""Webhooks against a live receiver: delivered once, rescheduled on failure, never to a private address."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from standardwebhooks import Webhook

from shared.database import new_id
from shared.errors import EngineFailed
from shared.jobs import EngineInfo, JobRequest, JobStatus, Output, Usage
from shared.settings import Settings
from shared.store import JobStore
from sightline.receiver import Receiver
from tests.conftest import WEBHOOK_SECRET
from tests.integration.conftest import Reply, Site, until
from worker.webhook import JITTER, SCHEDULE_S, Sender

OUTPUT = Output(
    text="一个红色的圆。",
    finish_reason="stop",
    usage=Usage(prompt_tokens=90, vision_tokens=64, output_tokens=6),
    engine=EngineInfo(name="double", version="1", model="qwen-vl"),
)


class Hooks:
    """Ends jobs that want to be told about."""

    def __init__(self, store: JobStore, settings: Settings) -> None:
        self.store, self.settings = store, settings

    async def end_job(self, url: str, *, output: Output | None = OUTPUT) -> str:
        """End a job and give the id of its event."""
        job_id = new_id("job")
        request = JobRequest.model_validate({"prompt": "x", "images": ["file-1"], "webhook": {"url": url}})
        await self.store.submit(request, self.settings, owner="me", job_id=job_id)
        claim = await self.store.claim(job_id, worker="w", lease_s=60)
        assert claim is not None
        error = None if output else EngineFailed()
        status = JobStatus.SUCCEEDED if output else JobStatus.FAILED
        assert await self.store.complete(claim, status, output=output, error=error)
        return f"evt_{job_id.removeprefix('job_')}"

    async def next_in_s(self, event_id: str) -> float:
        """Say in how many seconds an event is delivered again."""
        at_ms = await self.store.redis.zscore("sightline:due", event_id)
        assert at_ms is not None
        return float(at_ms / 1000 - time.time())

    async def make_due(self, event_id: str) -> None:
        await self.store.redis.zadd("sightline:due", {event_id: 1}, xx=True)

    async def settled(self) -> None:
        """Wait until nothing is on the due list."""

        async def none_left() -> bool:
            return not await self.store.redis.zcard("sightline:due")

        await until(none_left)


@pytest.fixture
def hooks(store: JobStore, settings: Settings) -> Hooks:
    return Hooks(store, settings)


@asynccontextmanager
async def sending(settings: Settings) -> AsyncIterator[Sender]:
    """Run a sender while the block runs; it finds due events by itself."""
    sender = Sender(settings)
    serving = asyncio.create_task(sender.serve())
    await sender.ready.wait()
    try:
        yield sender
    finally:
        while not serving.done():
            serving.cancel()
            await asyncio.wait([serving], timeout=0.2)
        with suppress(asyncio.CancelledError):
            serving.result()


@pytest.fixture
async def sender(settings: Settings) -> AsyncIterator[Sender]:
    """Give a sender that does nothing by itself: the tests ring its doorbell."""
    sender = Sender(settings)
    yield sender
    await sender._client.aclose()
    await sender._redis.aclose()


async def test_an_event_is_delivered_once_signed_and_whole(hooks: Hooks, settings: Settings, site: Site) -> None:
    event_id = await hooks.end_job(f"{site.url}/hook?x=1")

    async with sending(settings), sending(settings):  # two senders, and doorbells on top
        await hooks.settled()
        await asyncio.sleep(0.1)

    (asked,) = site.asked
    assert (asked.method, asked.path) == ("POST", "/hook?x=1")
    assert asked.headers["webhook-id"] == event_id
    assert asked.headers["content-type"] == "application/json"
    Webhook(WEBHOOK_SECRET).verify(asked.body, asked.headers)
    event = json.loads(asked.body)
    assert (event["type"], event["data"]["status"]) == ("job.succeeded", "succeeded")
    assert event["data"]["output"]["text"] == "一个红色的圆。"
    assert "一个红色的圆。".encode() in asked.body  # no escapes: a reader of logs can read it
    assert {"cookie", "authorization"}.isdisjoint(asked.headers)


async def test_our_own_receiver_takes_it(hooks: Hooks, sender: Sender) -> None:
    with Receiver(WEBHOOK_SECRET) as receiver:
        event_id = await hooks.end_job(receiver.url, output=None)
        await sender.run(event_id)

    (received,) = receiver.received
    assert (received.id, received.type, received.verified) == (event_id, "job.failed", True)
    assert received.job["error"]["code"] == "engine_failed"


async def test_a_receiver_that_fails_is_asked_again_with_the_same_id(hooks: Hooks, sender: Sender, site: Site) -> None:
    site.replies = [Reply(500), Reply(204)]
    event_id = await hooks.end_job(site.url)

    await sender.run(event_id)
    assert 5 * (1 - JITTER) - 1 < await hooks.next_in_s(event_id) <= 5 * (1 + JITTER)
    await sender.run(event_id)
    assert len(site.asked) == 1  # not before its time
    await asyncio.sleep(1.01)  # so that the time stamp differs
    await hooks.make_due(event_id)
    await sender.run(event_id)

    first, second = site.asked
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == event_id
    assert first.body == second.body
    assert first.headers["webhook-timestamp"] != second.headers["webhook-timestamp"]
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]
    Webhook(WEBHOOK_SECRET).verify(second.body, second.headers)
    await hooks.settled()


@pytest.mark.parametrize("status", [301, 302, 400, 401, 404, 429, 502])
async def test_anything_but_success_is_a_failure(status: int, hooks: Hooks, sender: Sender, site: Site) -> None:
    site.replies = [Reply(status, headers={"location": f"{site.url}/elsewhere"})]
    event_id = await hooks.end_job(f"{site.url}/hook")

    await sender.run(event_id)

    assert [asked.path for asked in site.asked] == ["/hook"]  # a redirect is not followed
    assert await hooks.next_in_s(event_id) > 1


async def test_delays_follow_the_schedule_and_then_it_is_given_up(hooks: Hooks, sender: Sender, site: Site) -> None:
    site.replies = [Reply(503)]
    event_id = await hooks.end_job(site.url)

    for delay_s in SCHEDULE_S:
        await hooks.make_due(event_id)
        await sender.run(event_id)
        assert delay_s * (1 - JITTER) - 1 <= await hooks.next_in_s(event_id) <= delay_s * (1 + JITTER)
    await hooks.make_due(event_id)
    await sender.run(event_id)

    await hooks.settled()
    assert len(site.asked) == len(SCHEDULE_S) + 1
    assert await hooks.store.redis.keys("sightline:delivery:*") == []


async def test_a_receiver_that_is_gone_is_left_alone(hooks: Hooks, sender: Sender, site: Site) -> None:
    site.replies = [Reply(410)]
    event_id = await hooks.end_job(site.url)

    await sender.run(event_id)

    await hooks.settled()
    assert len(site.asked) == 1


async def test_a_receiver_that_hangs_costs_its_time_out_and_no_more(hooks: Hooks, settings: Settings, site: Site) -> None:
    site.replies = [Reply(delay_s=1.0)]
    event_id = await hooks.end_job(site.url)
    sender = Sender(settings.model_copy(update={"webhook_timeout_s": 0.3}))
    began = time.monotonic()

    await sender.run(event_id)

    assert time.monotonic() - began < 1.0
    assert await hooks.next_in_s(event_id) > 1
    await sender._client.aclose()
    await sender._redis.aclose()


async def test_an_answer_without_end_is_not_read(hooks: Hooks, sender: Sender, site: Site) -> None:
    site.replies = [Reply(200, body=bytes(100), drip_s=0.1)]
    began = time.monotonic()

    await sender.run(await hooks.end_job(site.url))

    assert time.monotonic() - began < 1.5
    await hooks.settled()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
async def test_a_private_address_is_blocked_when_it_is_sent_to(host: str, hooks: Hooks, settings: Settings, site: Site) -> None:
    """Names are judged here, by what they resolve to now; the text alone told nothing when the job was submitted."""
    event_id = await hooks.end_job(site.url.replace("127.0.0.1", host))
    sender = Sender(settings.model_copy(update={"allow_networks": ()}))

    await sender.run(event_id)

    assert site.asked == []
    assert await hooks.next_in_s(event_id) > 1
    await sender._client.aclose()
    await sender._redis.aclose()


async def test_nobody_there_is_a_failure_too(hooks: Hooks, sender: Sender) -> None:
    event_id = await hooks.end_job("http://127.0.0.1:9999/hook")

    await sender.run(event_id)

    assert await hooks.next_in_s(event_id) > 1


async def test_a_job_past_its_retention_is_not_told_about(hooks: Hooks, sender: Sender, site: Site) -> None:
    event_id = await hooks.end_job(site.url)
    await hooks.store.redis.delete(f"sightline:job:job_{event_id.removeprefix('evt_')}")

    await sender.run(event_id)

    await hooks.settled()
    assert site.asked == []


async def test_a_sender_that_leaves_finishes_what_it_began(hooks: Hooks, settings: Settings, site: Site) -> None:
    site.replies = [Reply(204, delay_s=0.5)]
    await hooks.end_job(site.url)
    async with sending(settings) as sender:
        await until(lambda: _is(site.asked))
        await sender.drain()

        assert await hooks.store.redis.zcard("sightline:due") == 0


async def _is(value: object) -> object:
    return value


async def test_forged_doorbells_send_nothing(sender: Sender, site: Site) -> None:
    for event_id in ("evt_nope", "", "job_1", "evt_" + "x" * 10_000):
        await sender.run(event_id)

    assert site.asked == []


def test_a_secret_that_is_none_stops_the_sender_before_it_starts(settings: Settings) -> None:
    from pydantic import SecretStr

    with pytest.raises(ValueError, match="sightline secret"):
        Sender(settings.model_copy(update={"webhook_secret": SecretStr("whsec_not base64")}))
