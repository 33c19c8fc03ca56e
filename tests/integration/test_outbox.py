"""What senders take and write down: shared without doubles, with a token on every write, whatever the log holds."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as Disconnected

from shared.errors import CancelledByClient
from shared.jobs import JobRequest, Webhook
from shared.messages import short_form
from shared.settings import Settings
from shared.store.connection import reply
from shared.store.deliveries import Delivery, Outcome
from shared.store.endpoints import Endpoints
from shared.store.ids import new_id
from shared.store.jobs import JobStore
from shared.store.key_names import PREFIX
from shared.store.lua import read_library
from tests.integration.conftest import Reply, Site
from tests.integration.test_job_store import OUTPUT, Records
from tests.integration.test_sender import send
from worker.webhooks.sender import MORE_ATTEMPTS, Sender


@pytest.fixture
def records(store: JobStore, settings: Settings) -> Records:
    return Records(store, settings)


async def end_jobs(records: Records, n: int, url: str = "https://example.com/hook") -> list[str]:
    ids = [await records.submit(webhook={"url": url}) for _ in range(n)]
    for job_id in ids:
        assert await records.end(await records.claim(job_id), OUTPUT)
    return ids


async def take(records: Records, sender: str = "sender", **limits: Any) -> tuple[list[Delivery], bool]:
    usual: dict[str, Any] = {"limit": 100, "most": 4, "lease_s": 60, "open_after": 5}
    taken = await records.outbox.take(sender, **usual | limits)
    return taken.deliveries, taken.left


# --- taking ---


async def test_one_call_takes_for_all_targets_the_longest_due_first(records: Records) -> None:
    ids = [(await end_jobs(records, 1, f"https://{n}.example.com"))[0] for n in range(5)]

    deliveries, left = await take(records)

    assert [delivery.job_id for delivery in deliveries] == ids
    assert left is False


@pytest.mark.parametrize(
    ("limits", "n", "left"),
    [
        ({}, 4, True),
        ({"most": 10}, 6, False),
        ({"limit": 3}, 3, True),
        ({"under_way": {"me https://example.com": 3}}, 1, True),
        ({"under_way": {"me https://example.com": 4}}, 0, True),
        ({"under_way": {"another": 4}, "most": 6}, 6, False),
    ],
)
async def test_a_sender_takes_no_more_than_it_has_room_for_and_knows_what_it_left(
    limits: dict[str, Any],
    n: int,
    left: bool,  # noqa: FBT001
    records: Records,
) -> None:
    await end_jobs(records, 6)

    deliveries, is_left = await take(records, **limits)

    assert (len(deliveries), is_left) == (n, left)


async def test_senders_share_one_target(records: Records) -> None:
    await end_jobs(records, 10)

    taken = [(await take(records, f"sender-{n}"))[0] for n in range(3)]

    assert [len(deliveries) for deliveries in taken] == [4, 4, 2]
    assert len({delivery.id for deliveries in taken for delivery in deliveries}) == 10


async def test_more_full_targets_than_one_look_sees_hide_no_other(records: Records) -> None:
    """Targets without room here stand first on the list, and may be more than a script looks at."""
    full = {}
    for n in range(100):
        await end_jobs(records, 1, f"https://{n}.example.com")
        full[f"me https://{n}.example.com"] = 4
    (late,) = await end_jobs(records, 1, "https://late.example.com")

    deliveries, _ = await take(records, under_way=full)

    assert [delivery.job_id for delivery in deliveries] == [late]


async def test_many_targets_are_looked_at_in_bounded_pieces(records: Records, redis: Redis) -> None:
    for n in range(150):
        await end_jobs(records, 1, f"https://{n}.example.com")
    n_taken, pieces, left = 0, 0, True
    while left:
        await redis.config_resetstat()
        deliveries, left = await take(records, limit=256)
        stats = await redis.info("commandstats")
        assert sum(facts["calls"] for facts in stats.values()) < 64 * 8 + 20
        n_taken, pieces = n_taken + len(deliveries), pieces + 1

    assert (n_taken, pieces) == (150, 3)


async def test_a_target_that_was_looked_at_too_early_is_on_the_list_again(records: Records, redis: Redis) -> None:
    await end_jobs(records, 1)
    (delivery,), _ = await take(records)
    await records.settle(delivery, "retry", log={}, next_s=100)
    due = await redis.zscore("sightline:{sightline}:due", delivery.target)
    await redis.zadd("sightline:{sightline}:due", {delivery.target: 1})

    assert await take(records) == ([], False)

    assert await redis.zscore("sightline:{sightline}:due", delivery.target) == due


# --- tokens ---


async def test_what_is_delivered_anew_meanwhile_is_not_settled_by_the_old_attempt(records: Records) -> None:
    (job_id,) = await end_jobs(records, 1)
    (old,), _ = await take(records)

    await records.outbox.redeliver(job_id)

    for verdict in ("delivered", "retry", "given_up"):
        assert await records.settle(old, verdict, log={}) is False  # type: ignore[arg-type]
    (new,), _ = await take(records)
    assert (new.id, new.attempt) == (old.id, 1)
    assert await records.settle(new, "delivered", log={})


async def test_outcomes_of_one_call_are_judged_each_by_its_own(records: Records, redis: Redis) -> None:
    ids = await end_jobs(records, 4)
    deliveries, _ = await take(records)
    await redis.set(f"sightline:{{sightline}}:delivery:{deliveries[1].id}", "damaged")
    await redis.hset(f"sightline:{{sightline}}:delivery:{deliveries[2].id}", "token", "another's")  # type: ignore[misc]

    written = await records.outbox.settle([Outcome(delivery, "delivered", {}) for delivery in deliveries])

    assert written == [True, False, False, True]

    states = [(await records.outbox.of_job(job_id) or [{"status": None}])[0]["status"] for job_id in ids]
    assert states == ["delivered", None, "pending", "delivered"]


async def test_a_dead_senders_last_write_does_not_count(records: Records) -> None:
    (job_id,) = await end_jobs(records, 1)
    (dead,), _ = await take(records, "one", lease_s=0)
    (heir,), _ = await take(records, "another")

    assert await records.settle(dead, "given_up", log={"code": 500}) is False
    assert await records.settle(heir, "delivered", log={"attempt": 2, "code": 204}) is True
    (shown,) = await records.outbox.of_job(job_id)
    assert [attempt["code"] for attempt in shown["attempts"]] == [204]


# --- the log ---


ODD = ["", "下次再说", "a\nb", "line\u2028separator\x85next", '"quotes" \\n', "\x00\x1b[31m", "0" * 2048]


async def test_the_log_keeps_every_answer_to_the_letter(records: Records) -> None:
    (job_id,) = await end_jobs(records, 1)
    usual = {"at": 1764236412.125, "code": 500, "ms": 3, "error": None}
    told = [{"attempt": n, **usual, "answer": text} for n, text in enumerate(ODD)]
    for attempt in told:
        (delivery,), _ = await take(records, open_after=100)
        await records.settle(delivery, "retry", log=attempt)

    (shown,) = await records.outbox.of_job(job_id)

    assert shown["attempts"] == told


async def test_the_log_keeps_the_last_fifty_attempts(records: Records) -> None:
    (job_id,) = await end_jobs(records, 1)
    for n in range(60):
        (delivery,), _ = await take(records, open_after=100)
        await records.settle(delivery, "retry", log={"attempt": n})

    (shown,) = await records.outbox.of_job(job_id)

    assert [attempt["attempt"] for attempt in shown["attempts"]] == list(range(10, 60))


async def test_a_jobs_deliveries_are_found_without_a_list_of_their_own(records: Records, redis: Redis) -> None:
    endpoints = Endpoints(records.redis)
    kinds = ["job.running", "job.succeeded"]
    first, second = [
        (await endpoints.create(owner="me", name="x", url=f"https://{n}.example.com", events=kinds, payload="full")).id
        for n in range(2)
    ]
    job_id = await records.submit(webhook={"url": "https://example.com", "events": kinds})
    await records.end(await records.claim(job_id), OUTPUT)

    log = await records.outbox.of_job(job_id)

    assert [(shown["event_type"], shown["webhook_endpoint_id"]) for shown in log] == [
        *[("job.running", who) for who in (None, first, second)],
        *[("job.succeeded", who) for who in (None, first, second)],
    ]
    keys = {key.partition(":")[2].partition(":")[0] for key in await redis.keys("*")}
    assert keys.isdisjoint({"deliveries", "attempts", "taken"})


async def test_what_is_forgotten_takes_its_deliveries_along(records: Records, redis: Redis, settings: Settings) -> None:
    endpoints = Endpoints(records.redis)
    await endpoints.create(owner="me", name="x", url="https://1.example.com", events=["job.succeeded"], payload="full")
    request = JobRequest(messages=short_form("x", ["file-1"]), webhook=Webhook(url="https://example.com"))
    job_id, _ = await records.store.submit(request, settings, owner="me", job_id=new_id("job"), response={"a": 1})
    await records.end(await records.claim(job_id), OUTPUT)
    done, waiting = (await take(records))[0]
    await records.settle(done, "delivered", log={})

    await records.store.delete_response(job_id, CancelledByClient())
    await records.settle(waiting, "delivered", log={})

    assert all([0 < await redis.pttl(f"sightline:{{sightline}}:delivery:{one.id}") <= 2000 for one in (done, waiting)])


@pytest.mark.parametrize("subject", ["job_1", "batch_1", "group_1"])
async def test_a_delivery_knows_whose_event_it_tells(subject: str, records: Records, redis: Redis) -> None:
    library = read_library(webhook_backlog=9)
    call = "deliver(ARGV[1], 'me https://example.com', 'me', ARGV[2], '', 1, 'x.y', 'url', 'https://example.com')"
    extra = f"register('trial', function(keys, ARGV) begin(keys[1]) {call} end)"
    await reply(redis.function_load(f"{library.text.replace(library.name, 'trials')}\n{extra}", replace=True))
    await reply(redis.fcall("trial", 1, PREFIX, f"evt_{subject.partition('_')[2]}", subject))  # type: ignore[arg-type]

    (delivery,), _ = await take(records)

    assert delivery.job_id == subject


# --- senders ---


async def test_a_delivery_that_senders_die_of_is_given_up(
    records: Records, settings: Settings, site: Site, redis: Redis
) -> None:
    sender = Sender(settings)
    (job_id,) = await end_jobs(records, 1, site.url)
    key = f"sightline:{{sightline}}:delivery:evt_{job_id.removeprefix('job_')}"
    most = len(settings.webhook_schedule_s) + 1 + MORE_ATTEMPTS
    await redis.hset(key, "attempt", most)  # type: ignore[misc]

    await send(sender)

    (shown,) = await records.outbox.of_job(job_id)
    assert (shown["status"], shown["attempts"][0]["error"]) == ("given_up", "sender_lost")
    assert site.asked == []
    await sender.close()


async def test_what_could_not_be_written_down_is_written_later(
    records: Records, settings: Settings, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = Sender(settings)
    site.replies = [Reply(204)]
    (job_id,) = await end_jobs(records, 1, site.url)
    settle = sender._outbox.settle

    async def away(_: list[Outcome]) -> list[bool]:
        raise Disconnected

    monkeypatch.setattr(sender._outbox, "settle", away)
    await send(sender)
    assert (await records.outbox.of_job(job_id))[0]["status"] == "pending"
    monkeypatch.setattr(sender._outbox, "settle", settle)
    await sender.drain()

    assert (await records.outbox.of_job(job_id))[0]["status"] == "delivered"
    assert len(site.asked) == 1
    await sender.close()
