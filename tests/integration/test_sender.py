"""Webhooks against a live receiver: delivered once, rescheduled on failure, never to a private address."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from openai import OpenAI
from standardwebhooks import Webhook

from shared.aio import cancel_all
from shared.errors import EngineFailed
from shared.jobs import EngineInfo, JobRequest, JobStatus, Output, Usage
from shared.messages import short_form
from shared.settings import Settings
from shared.store.ids import new_id
from shared.store.jobs import JobStore
from shared.store.outbox import Outbox
from sightline.receiver import Receiver
from tests.claims import claim_job
from tests.conftest import WEBHOOK_SECRET
from tests.integration.conftest import Reply, Site, until
from worker.webhooks.retry_policy import OPEN_AFTER
from worker.webhooks.sender import JITTER, MAX_TO_TARGET, Sender

OPENAI = OpenAI(api_key="x", base_url="http://127.0.0.1:1")
OUTPUT = Output(
    text="一个红色的圆。",
    finish_reason="stop",
    usage=Usage(prompt_tokens=90, vision_tokens=64, output_tokens=6),
    engine=EngineInfo(name="double", version="1", model="qwen-vl"),
)


class Hooks:
    """Ends jobs that want to be told about."""

    def __init__(self, store: JobStore, settings: Settings) -> None:
        self.store, self.settings, self.outbox = store, settings, Outbox(store.redis)

    async def log(self, event_id: str) -> dict[str, Any]:
        """Give the delivery log of the only delivery of an event's job."""
        (delivery,) = await self.outbox.of_job(f"job_{event_id.removeprefix('evt_')}")
        return delivery

    async def end_job(self, url: str, *, output: Output | None = OUTPUT) -> str:
        """End a job and give the id of its event."""
        job_id = new_id("job")
        request = JobRequest.model_validate({"messages": short_form("x", ["file-1"]), "webhook": {"url": url}})
        await self.store.submit(request, self.settings, owner="me", job_id=job_id)
        claim = await claim_job(self.store, job_id, worker="w", lease_s=60)
        assert claim is not None
        error = None if output else EngineFailed()
        status = JobStatus.SUCCEEDED if output else JobStatus.FAILED
        assert await self.store.complete(claim, status, output=output, error=error)
        return f"evt_{job_id.removeprefix('job_')}"

    async def next_in_s(self, event_id: str) -> float:
        """Say in how many seconds an event is delivered again."""
        target = await self.store.redis.hget(f"sightline:{{sightline}}:delivery:{event_id}", "target")
        at_ms = await self.store.redis.zscore(f"sightline:{{sightline}}:due:{target}", event_id)
        assert at_ms is not None
        return float(at_ms / 1000 - time.time())

    async def make_due(self, event_id: str) -> None:
        """Let the time of its next delivery come, and its target's pause end."""
        target = await self.store.redis.hget(f"sightline:{{sightline}}:delivery:{event_id}", "target")
        await self.store.redis.zadd(f"sightline:{{sightline}}:due:{target}", {event_id: 1}, xx=True)
        await self.store.redis.zadd("sightline:{sightline}:due", {target: 1}, xx=True)
        await self.store.redis.hdel(f"sightline:{{sightline}}:target:{target}", "paused_until_ms")

    async def settled(self) -> None:
        """Wait until nothing is on the due list."""

        async def none_left() -> bool:
            return not await self.store.redis.zcard("sightline:{sightline}:due")

        await until(none_left)


@pytest.fixture
def hooks(store: JobStore, settings: Settings) -> Hooks:
    return Hooks(store, settings)


async def send(sender: Sender) -> None:
    """Make all deliveries that are due, and wait for their ends."""
    await sender.send_due()
    await sender.drain()


@asynccontextmanager
async def sending(settings: Settings) -> AsyncIterator[Sender]:
    """Run a sender while the block runs; it finds due events by itself."""
    sender = Sender(settings)
    serving = asyncio.create_task(sender.serve())
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
    await sender.close()


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
        await send(sender)

    (received,) = receiver.received
    assert (received.id, received.type, received.verified) == (event_id, "job.failed", True)
    assert received.job["error"]["code"] == "engine_failed"


async def test_a_receiver_that_fails_is_asked_again_with_the_same_id(hooks: Hooks, sender: Sender, site: Site) -> None:
    site.replies = [Reply(500), Reply(204)]
    event_id = await hooks.end_job(site.url)

    await send(sender)
    assert 5 * (1 - JITTER) - 1 < await hooks.next_in_s(event_id) <= 5 * (1 + JITTER)
    await send(sender)
    assert len(site.asked) == 1  # not before its time
    await asyncio.sleep(1.01)  # so that the time stamp differs
    await hooks.make_due(event_id)
    await send(sender)

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

    await send(sender)

    assert [asked.path for asked in site.asked] == ["/hook"]  # a redirect is not followed
    assert await hooks.next_in_s(event_id) > 1


async def test_delays_follow_the_schedule_and_then_it_is_given_up(hooks: Hooks, sender: Sender, site: Site) -> None:
    schedule_s = hooks.settings.webhook_schedule_s
    site.replies = [Reply(503)]
    event_id = await hooks.end_job(site.url)

    for delay_s in schedule_s:
        await hooks.make_due(event_id)
        await send(sender)
        assert delay_s * (1 - JITTER) - 1 <= await hooks.next_in_s(event_id) <= delay_s * (1 + JITTER)
    await hooks.make_due(event_id)
    await send(sender)

    await hooks.settled()
    assert (len(schedule_s), len(site.asked)) == (9, 10)
    assert (await hooks.log(event_id))["status"] == "given_up"


async def test_500_500_a_hang_then_204(hooks: Hooks, settings: Settings, site: Site) -> None:
    """The schedule, a hundred times as fast: four attempts, one id, every signature genuine to both oracles."""
    site.replies = [Reply(500, body="下次再说".encode()), Reply(500), Reply(204, delay_s=1.5), Reply(204)]
    quick = settings.model_copy(update={"webhook_timeout_s": 1.0, "webhook_schedule_s": (1.0, 1.2, 0.1)})
    event_id = await hooks.end_job(site.url)

    async with sending(quick):
        await hooks.settled()

    assert len(site.asked) == 4
    assert {asked.headers["webhook-id"] for asked in site.asked} == {event_id}
    stamps = [int(asked.headers["webhook-timestamp"]) for asked in site.asked]
    assert stamps == sorted(stamps)
    assert stamps[0] < stamps[-1]
    for asked in site.asked:
        assert abs(int(asked.headers["webhook-timestamp"]) - asked.at_s) < 30
        assert Webhook(WEBHOOK_SECRET).verify(asked.body, asked.headers)
        assert OPENAI.webhooks.unwrap(asked.body, asked.headers, secret=WEBHOOK_SECRET)
    log = await hooks.log(event_id)
    assert (log["status"], log["next_attempt_at"]) == ("delivered", None)
    assert [(a["attempt"], a["code"], a["error"], a["answer"]) for a in log["attempts"]] == [
        (1, 500, None, "下次再说"),
        (2, 500, None, ""),
        (3, None, "timeout", ""),
        (4, 204, None, ""),
    ]
    assert all(attempt["ms"] >= 0 for attempt in log["attempts"])
    gaps_s = [after.at_s - before.at_s for before, after in itertools.pairwise(site.asked)]
    assert all(gap_s >= delay_s * (1 - JITTER) for gap_s, delay_s in zip(gaps_s, quick.webhook_schedule_s, strict=True))


@pytest.mark.parametrize("status", [429, 503])
async def test_a_receiver_that_says_when_to_come_back_is_heeded(status: int, hooks: Hooks, sender: Sender, site: Site) -> None:
    site.replies = [Reply(status, headers={"retry-after": "600"})]
    event_id = await hooks.end_job(site.url)
    await send(sender)

    assert 590 < await hooks.next_in_s(event_id) <= 600
    await hooks.end_job(site.url)
    await send(sender)
    assert len(site.asked) == 1  # the next event waits, too


async def test_a_dead_receiver_delays_no_other(hooks: Hooks, settings: Settings, site: Site) -> None:
    """A hundred deliveries to one that hangs are due before the one to another host."""
    dead = Site()
    dead.replies = [Reply(204, delay_s=1.0)]
    patient = settings.model_copy(update={"webhook_timeout_s": 20.0})
    for _ in range(100):
        await hooks.end_job(dead.url)
    await hooks.end_job(site.url)

    async with sending(patient):
        await until(lambda: _is(site.asked))
        n_dead = len(dead.asked)
    dead.close()

    assert n_dead <= MAX_TO_TARGET


async def test_one_who_always_fails_is_asked_ever_more_seldom(hooks: Hooks, sender: Sender, site: Site) -> None:
    site.replies = [Reply(500)]
    for _ in range(20):
        await hooks.end_job(site.url)

    for _ in range(5):
        await send(sender)

    assert OPEN_AFTER <= len(site.asked) < OPEN_AFTER + MAX_TO_TARGET


async def test_an_unencoded_answer_is_kept_up_to_2_kb(hooks: Hooks, sender: Sender, site: Site) -> None:
    site.replies = [Reply(500, body=b"x" * 60_000)]
    event_id = await hooks.end_job(site.url)
    await send(sender)

    (attempt,) = (await hooks.log(event_id))["attempts"]
    assert attempt["answer"] == "x" * 2048


async def test_a_sender_that_dies_between_send_and_mark_is_replaced(hooks: Hooks, settings: Settings, site: Site) -> None:
    site.replies = [Reply(204, delay_s=0.3)]
    event_id = await hooks.end_job(site.url)
    dying = Sender(settings.model_copy(update={"webhook_timeout_s": 0.5}))
    await dying.send_due()
    await until(lambda: _is(site.asked))
    await cancel_all(dying._tasks)
    await dying.close()

    async with sending(settings):
        await hooks.settled()

    assert [asked.headers["webhook-id"] for asked in site.asked] == [event_id] * 2
    assert [attempt["code"] for attempt in (await hooks.log(event_id))["attempts"]] == [204]


async def test_a_job_can_be_told_of_again_with_the_same_id(hooks: Hooks, sender: Sender, site: Site) -> None:
    site.replies = [Reply(204)]
    event_id = await hooks.end_job(site.url)
    await send(sender)

    await hooks.outbox.redeliver(f"job_{event_id.removeprefix('evt_')}")
    await send(sender)

    first, second = site.asked
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    assert [attempt["code"] for attempt in (await hooks.log(event_id))["attempts"]] == [204, 204]


async def test_a_receiver_that_is_gone_is_left_alone(hooks: Hooks, sender: Sender, site: Site) -> None:
    site.replies = [Reply(410)]
    await hooks.end_job(site.url)

    await send(sender)

    await hooks.settled()
    assert len(site.asked) == 1


async def test_a_receiver_that_hangs_costs_its_time_out_and_no_more(hooks: Hooks, settings: Settings, site: Site) -> None:
    site.replies = [Reply(delay_s=1.0)]
    event_id = await hooks.end_job(site.url)
    sender = Sender(settings.model_copy(update={"webhook_timeout_s": 0.3}))
    began = time.monotonic()

    await send(sender)

    assert time.monotonic() - began < 1.0
    assert await hooks.next_in_s(event_id) > 1
    await sender.close()


BOMB = gzip.compress(bytes(100 * 2**20))  # a hundred megabytes in one tenth


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(200, body=bytes(100), drip_s=0.1), "timeout"),
        (Reply(200, body=bytes(2**20)), "answer_too_long"),
        (Reply(200, body=BOMB, headers={"content-encoding": "gzip"}), "answer_too_long"),
        (Reply(200, headers={"content-length": "10000000000"}), "no_answer"),
    ],
    ids=["one byte at a time", "a megabyte", "a gzip bomb", "less than it says"],
)
async def test_an_answer_that_does_not_end_is_a_failure(
    reply: Reply, error: str, hooks: Hooks, settings: Settings, site: Site
) -> None:
    site.replies = [reply]
    event_id = await hooks.end_job(site.url)
    sender = Sender(settings.model_copy(update={"webhook_timeout_s": 0.8}))

    await send(sender)

    assert await hooks.next_in_s(event_id) > 1
    assert (await hooks.log(event_id))["attempts"][0]["error"] in {error, "timeout"}
    await sender.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
async def test_a_private_address_is_blocked_when_it_is_sent_to(host: str, hooks: Hooks, settings: Settings, site: Site) -> None:
    """Names are judged here, by what they resolve to now; the text alone told nothing when the job was submitted."""
    event_id = await hooks.end_job(site.url.replace("127.0.0.1", host))
    sender = Sender(settings.model_copy(update={"allow_networks": ()}))

    await send(sender)

    assert site.asked == []
    assert await hooks.next_in_s(event_id) > 1
    await sender.close()


async def test_nobody_there_is_a_failure_too(hooks: Hooks, sender: Sender) -> None:
    event_id = await hooks.end_job("http://127.0.0.1:9999/hook")

    await send(sender)

    assert await hooks.next_in_s(event_id) > 1


async def test_the_end_of_a_job_past_its_retention_is_still_told(hooks: Hooks, sender: Sender, site: Site) -> None:
    event_id = await hooks.end_job(site.url)
    job_id = f"job_{event_id.removeprefix('evt_')}"
    await hooks.store.redis.delete(f"sightline:{{sightline}}:job:{job_id}")

    await send(sender)

    data = json.loads(site.asked[0].body)["data"]
    assert (data["id"], data["status"], data["output_omitted"]) == (job_id, "succeeded", True)


async def test_a_sender_that_leaves_finishes_what_it_began(hooks: Hooks, settings: Settings, site: Site) -> None:
    site.replies = [Reply(204, delay_s=0.5)]
    await hooks.end_job(site.url)
    async with sending(settings) as sender:
        await until(lambda: _is(site.asked))
        await sender.drain()

        assert await hooks.store.redis.zcard("sightline:{sightline}:due") == 0


async def _is(value: object) -> object:
    return value


async def test_forged_messages_send_nothing(hooks: Hooks, settings: Settings, site: Site) -> None:
    async with sending(settings):
        for text in ("evt_nope", "", "job_1", "evt_" + "x" * 10_000):
            await hooks.store.redis.publish("sightline:{sightline}:deliveries", text)
        event_id = await hooks.end_job(site.url)
        await hooks.settled()

    assert [asked.headers["webhook-id"] for asked in site.asked] == [event_id]


def test_a_secret_that_is_none_stops_the_sender_before_it_starts(settings: Settings) -> None:
    from pydantic import SecretStr

    with pytest.raises(ValueError, match="sightline secret"):
        Sender(settings.model_copy(update={"webhook_secret": SecretStr("whsec_not base64")}))
