"""The job records on a real Valkey: every move happens once or not at all."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from shared.errors import (
    CancelledByClient,
    EngineFailed,
    Gone,
    KeyReused,
    MediaUnreadable,
    NotFound,
    QueueFull,
    RecordUnreadable,
    SightlineError,
    StoreUnsafe,
    UploadUnknown,
)
from shared.jobs import EngineInfo, Job, JobRequest, JobStatus, Output, Stage, Usage
from shared.messages import short_form
from shared.settings import Settings
from shared.store.check import StoreCheck
from shared.store.claims import Beat, Claim
from shared.store.connection import connect
from shared.store.deliveries import Delivery, Outcome, Verdict
from shared.store.ids import new_id
from shared.store.jobs import JobStore
from shared.store.outbox import Outbox
from shared.store.uploads import Uploads
from shared.store.workers import WorkerRegistry
from tests.claims import claim_job, end_lease, listed, next_claims
from tests.integration.conftest import until

OUTPUT = Output(
    text="一个红色的圆。",
    finish_reason="stop",
    usage=Usage(prompt_tokens=90, vision_tokens=64, output_tokens=6),
    engine=EngineInfo(name="double", version="1", model="qwen-vl"),
    timings_ms={"total": 12},
)


class Records:
    """What the tests do with a store, in few words."""

    def __init__(self, store: JobStore, settings: Settings) -> None:
        self.store, self.settings, self.redis = store, settings, store.redis
        self.outbox, self.uploads, self.registry = (kind(store.redis) for kind in (Outbox, Uploads, WorkerRegistry))

    async def submit(self, *, owner: str = "me", idempotency: tuple[str, str] | None = None, **given: Any) -> str:
        limits = {name: given.pop(name) for name in list(given) if name in Settings.model_fields}
        request = JobRequest.model_validate({"messages": short_form("描述一下", ["file-1"])} | given)
        settings = self.settings.model_copy(update=limits)
        job_id, _ = await self.store.submit(request, settings, owner=owner, job_id=new_id("job"), idempotency=idempotency)
        return job_id

    async def claim(self, job_id: str, *, worker: str = "w1", lease_s: float = 60) -> Claim:
        claim = await claim_job(self.store, job_id, worker=worker, lease_s=lease_s)
        assert claim is not None
        return claim

    async def end(self, claim: Claim, outcome: Output | SightlineError) -> bool:
        """End a job as its outcome says."""
        if isinstance(outcome, Output):
            return await self.store.complete(claim, JobStatus.SUCCEEDED, output=outcome, error=None)
        status = JobStatus.CANCELLED if isinstance(outcome, CancelledByClient) else JobStatus.FAILED
        return await self.store.complete(claim, status, output=None, error=outcome)

    async def stage(self, claim: Claim, stage: Stage) -> None:
        await self.store.set_stages(claim.worker, [(claim, stage)])

    async def beat(self, *claims: Claim) -> Beat:
        return await self.store.beat(claims[0].worker, claims, lease_s=60)

    async def expire_lease(self, job_id: str) -> None:
        """Let the lease of the worker that runs a job be over."""
        worker = await self.redis.hget(f"sightline:{{sightline}}:job:{job_id}", "worker")  # type: ignore[misc]
        await end_lease(self.store, worker or "")

    async def rescue(self, **limits: Any) -> int:
        return await self.store.rescue(self.settings.model_copy(update=limits))

    async def due(self, *, open_after: int = 5, lease_s: float = 60) -> list[Delivery]:
        """Take all deliveries that are due, as a sender of its own."""
        limits = {"limit": 100, "most": 10, "open_after": open_after}
        return (await self.outbox.take(new_id("sender"), **limits, lease_s=lease_s)).deliveries

    async def settle(self, delivery: Delivery, verdict: Verdict, *, log: dict[str, Any], **times: Any) -> bool:
        """Write down how an attempt went."""
        (written,) = await self.outbox.settle([Outcome(delivery, verdict, log, **times)])
        return written

    async def targets(self) -> list[str]:
        """Name the targets that something is, or will be, due to."""
        return cast("list[str]", await self.redis.zrange("sightline:{sightline}:due", 0, -1))

    async def let_time_come(self, target: str) -> None:
        """Let what is due to a target later be due now, and its pause be over."""
        for index, members in (
            ("due", [target]),
            (f"due:{target}", await self.redis.zrange(f"sightline:{{sightline}}:due:{target}", 0, -1)),
        ):
            await self.redis.zadd(f"sightline:{{sightline}}:{index}", dict.fromkeys(members, 1), xx=True)
        await self.redis.hdel(f"sightline:{{sightline}}:target:{target}", "paused_until_ms")  # type: ignore[misc]

    async def heard(self, channel: str) -> None:
        """Wait until somebody hears what is said on a channel."""
        await until(lambda: _n_hear(self.redis, f"sightline:{{sightline}}:{channel}"))

    async def status(self, job_id: str) -> str:
        return (await self.store.get(job_id)).status

    async def code(self, job_id: str) -> str:
        job = await self.store.get(job_id)
        assert job.error is not None
        return str(job.error["code"])


async def _n_hear(redis: Redis, channel: str) -> int:
    return int((await redis.pubsub_numsub(channel))[0][1])


@pytest.fixture
def records(store: JobStore, settings: Settings) -> Records:
    return Records(store, settings)


async def test_a_job_goes_from_submit_to_output(records: Records) -> None:
    job_id = await records.submit(metadata={"相册": "夏天"})
    queued = await records.store.get(job_id, owner="me")
    assert (queued.status, queued.attempt, queued.started_at, queued.stage) == ("queued", 0, None, None)

    claim = await records.claim(job_id)
    assert (claim.attempt, claim.fence, claim.run_timeout_s) == (1, 1, records.settings.run_timeout_s)
    assert claim.request.messages == short_form("描述一下", ["file-1"])
    assert 0 <= claim.queued_ms < 60_000
    await records.stage(claim, Stage.GENERATING)
    running = await records.store.get(job_id)
    assert (running.status, running.stage, running.attempt) == ("running", "generating", 1)

    assert await records.end(claim, OUTPUT) is True

    job = await records.store.get(job_id)
    assert (job.status, job.stage, job.output, job.error) == ("succeeded", None, OUTPUT, None)
    assert job.metadata == {"相册": "夏天"}
    assert job.started_at is not None
    assert job.finished_at is not None
    assert job.created_at <= job.started_at <= job.finished_at
    assert await records.store.counts() == {"queued": 0, "running": 0, "succeeded": 1, "failed": 0, "cancelled": 0}


async def test_submits_that_leave_together_share_a_call_and_are_answered_each_for_itself(
    records: Records, redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    await redis.set("sightline:{sightline}:owner:broken", "x")
    await records.submit(idempotency=("key", "body"))
    await redis.config_resetstat()

    *good, reused, broken, odd = await asyncio.gather(
        *(records.submit() for _ in range(3)),
        records.submit(idempotency=("key", "another body")),
        records.submit(owner="broken"),
        records.submit(owner="x\ud800"),
        return_exceptions=True,
    )
    full = await asyncio.gather(*(records.submit(max_queued=6) for _ in range(3)), return_exceptions=True)

    assert [type(answer) for answer in (reused, broken)] == [KeyReused, RecordUnreadable]
    assert isinstance(odd, ValueError)
    assert [(await records.store.get(job_id, owner="me")).status for job_id in good] == ["queued"] * 3
    assert [isinstance(answer, QueueFull) for answer in full] == [False, False, True]
    assert (await records.store.counts())["queued"] == 6
    # Those beside what cannot be written were sent anew, each alone.
    assert (await redis.info("commandstats"))["cmdstat_fcall"]["calls"] == 5 + 1
    assert "owner:broken" in capsys.readouterr().out


async def test_a_job_goes_from_submit_to_error(records: Records) -> None:
    claim = await records.claim(await records.submit())

    assert await records.end(claim, MediaUnreadable("损坏", param="images.0"))

    job = await records.store.get(claim.job_id)
    assert (job.status, job.output) == ("failed", None)
    assert job.error == {"message": "损坏", "type": "invalid_request_error", "param": "images.0", "code": "media_unreadable"}


async def test_a_job_is_claimed_once_however_many_ask(records: Records) -> None:
    job_id = await records.submit()

    claims = await asyncio.gather(*(next_claims(records.store, 2, worker=f"w{n}") for n in range(20)))

    assert [claim.job_id for got in claims for claim in got] == [job_id]


@pytest.mark.parametrize("end", ["succeeded", "cancelled", "unknown"])
async def test_what_is_not_queued_is_not_claimed(end: str, records: Records) -> None:
    job_id = await records.submit()
    if end == "succeeded":
        await records.end(await records.claim(job_id), OUTPUT)
    elif end == "cancelled":
        await records.store.cancel(job_id, CancelledByClient())
    else:
        await records.redis.delete(f"sightline:{{sightline}}:job:{job_id}")

    assert await next_claims(records.store, 5) == []
    assert (await records.store.counts())["running"] == 0


async def test_a_claim_repeated_because_its_reply_was_lost_is_the_same_claim(records: Records) -> None:
    for _ in range(5):
        await records.submit()
    first = await next_claims(records.store, 2, token="t1")

    again = await next_claims(records.store, 2, token="t1")
    assert [(claim.job_id, claim.fence) for claim in again] == [(claim.job_id, claim.fence) for claim in first]
    assert (first[0].fence, first[0].attempt) == (1, 1)
    assert await records.end(first[0], OUTPUT)
    assert [claim.job_id for claim in await next_claims(records.store, 2, token="t1")] == [first[1].job_id]
    assert await records.store.release(first[1], "leave")
    assert await next_claims(records.store, 2, token="t1") == []
    assert len(await next_claims(records.store, 5, token="t2")) == 4


async def test_a_stale_fence_writes_nothing(records: Records) -> None:
    job_id = await records.submit()
    stale = await records.claim(job_id, worker="slow")
    await records.expire_lease(job_id)
    await records.rescue()
    fresh = await records.claim(job_id, worker="quick")

    assert fresh.fence > stale.fence
    assert await records.end(stale, OUTPUT) is False
    assert await records.store.release(stale, "retry") is False
    await records.stage(stale, Stage.DECODING)
    assert (await records.beat(stale)).lost == [stale]
    assert (await records.beat(fresh)).lost == []
    job = await records.store.get(job_id)
    assert (job.status, job.stage, job.output, job.attempt) == ("running", "fetching", None, 2)
    assert await records.end(fresh, EngineFailed())
    assert await records.end(fresh, OUTPUT) is False
    assert await records.status(job_id) == "failed"


async def test_an_expired_lease_is_no_end_while_nobody_took_the_job(records: Records) -> None:
    claim = await records.claim(await records.submit())
    await records.expire_lease(claim.job_id)

    assert await records.beat(claim) == Beat([], [], {})
    assert await records.rescue() == 0
    assert await records.end(claim, OUTPUT)


LEASES = (("long", 60.0), ("short", 0.05))


async def test_a_short_lease_ends_by_the_clock_of_redis(records: Records) -> None:
    long, short = [await records.claim(await records.submit(), worker=worker, lease_s=lease_s) for worker, lease_s in LEASES]

    assert await until(records.rescue) == 1

    assert (await records.status(long.job_id), await records.status(short.job_id)) == ("running", "queued")


async def test_the_job_of_a_dead_worker_is_queued_again(records: Records) -> None:
    job_id = await records.submit()
    await records.claim(job_id)
    await records.expire_lease(job_id)

    assert await records.rescue() == 1

    job = await records.store.get(job_id)
    assert (job.status, job.attempt, job.stage) == ("queued", 1, None)
    assert await records.rescue() == 0
    assert await records.redis.zcard("sightline:{sightline}:workers") == 0


async def test_the_jobs_of_a_worker_known_to_be_dead_do_not_wait_for_their_leases(records: Records) -> None:
    orphans, other = [await records.submit() for _ in range(3)], await records.submit()
    for job_id in orphans:
        await records.claim(job_id, worker="w1")
    kept = await records.claim(other, worker="w2")

    assert await records.store.rescue(records.settings, dead=["w1", "w9"]) == 3

    assert await records.end(kept, OUTPUT)
    assert [await records.status(job_id) for job_id in orphans] == ["queued"] * 3


async def test_a_job_that_loses_every_worker_fails(records: Records) -> None:
    job_id = await records.submit()
    for _ in range(3):
        await records.claim(job_id)
        await records.expire_lease(job_id)
        await records.rescue(max_attempts=3)

    assert await records.status(job_id) == "failed"
    assert await records.code(job_id) == "worker_lost"
    assert (await records.store.get(job_id)).attempt == 3


async def test_rescues_at_the_same_time_do_the_work_once(records: Records) -> None:
    ids = [await records.submit() for _ in range(130)]  # more than one call looks at
    assert len(await next_claims(records.store, 130)) == 130
    await end_lease(records.store, "w")

    looked_at = await asyncio.gather(*(records.rescue() for _ in range(8)))

    assert sum(looked_at) == 130
    assert {(await records.store.get(job_id)).status for job_id in ids} == {"queued"}
    assert [claim.attempt for claim in await next_claims(records.store, 200)] == [2] * 130


async def test_a_job_that_never_started_fails_at_its_deadline(records: Records) -> None:
    job_id = await records.submit(start_deadline_s=0)
    await asyncio.sleep(0.01)

    await records.store.fail_overdue()

    assert await records.code(job_id) == "start_deadline"


async def test_a_late_job_never_starts(records: Records) -> None:
    job_id = await records.submit(start_deadline_s=0)
    await asyncio.sleep(0.01)

    assert await claim_job(records.store, job_id, worker="w", lease_s=60) is None

    assert await records.code(job_id) == "start_deadline"
    assert await records.redis.zcard("sightline:{sightline}:deadlines") == 0


async def test_a_job_that_started_in_time_is_tried_again_after_the_deadline(records: Records) -> None:
    job_id = await records.submit()
    await records.store.release(await records.claim(job_id), "leave")
    await records.redis.hset(f"sightline:{{sightline}}:job:{job_id}", "created_ms", 1)

    await records.store.fail_overdue()

    assert (await records.claim(job_id)).attempt == 1


async def test_a_job_handed_back_is_charged_only_for_its_own_fault(records: Records) -> None:
    job_id = await records.submit()

    assert await records.store.release(await records.claim(job_id), "leave")
    assert (await records.store.get(job_id)).attempt == 0

    assert await records.store.release(await records.claim(job_id), "retry", after_s=60)
    assert (await records.store.get(job_id)).attempt == 1
    assert await records.rescue() == 0  # not before its pause is over
    assert await next_claims(records.store) == []
    await records.redis.zadd("sightline:{sightline}:delayed", {job_id: 1}, xx=True)
    assert await records.rescue() == 1
    assert (await records.claim(job_id)).attempt == 2


async def test_a_job_handed_back_keeps_its_place(records: Records) -> None:
    ids = [await records.submit() for _ in range(3)]
    (claim,) = await next_claims(records.store)
    await records.store.release(claim, "leave")

    assert [claim.job_id for claim in await next_claims(records.store, 3)] == ids


async def test_a_worker_hears_of_jobs_that_it_does_not_know(records: Records) -> None:
    """The reply to its claim was lost, and it did not ask again."""
    first, second = await records.submit(), await records.submit()
    (known, lost) = await next_claims(records.store, 2)
    assert [known.job_id, lost.job_id] == [first, second]

    assert (await records.beat(known)).unknown == {second: 1}
    assert await records.store.release_held("w", second, 1)
    assert await records.beat(known) == Beat([], [], {})


async def test_a_queued_job_is_cancelled_at_once(records: Records) -> None:
    job_id = await records.submit()

    await records.store.cancel(job_id, CancelledByClient())

    assert (await records.status(job_id), await records.code(job_id)) == ("cancelled", "cancelled")
    assert await records.rescue() == 0


async def test_a_running_job_is_cancelled_by_its_worker(records: Records) -> None:
    claim = await records.claim(await records.submit())
    heard = asyncio.create_task(anext(records.store.cancels()))
    await records.heard("cancels")

    await records.store.cancel(claim.job_id, CancelledByClient())

    assert await asyncio.wait_for(heard, 60) == claim.job_id
    assert await records.status(claim.job_id) == "running"
    assert (await records.beat(claim)).cancelled == [claim.job_id]
    assert await records.end(claim, CancelledByClient())
    assert await records.status(claim.job_id) == "cancelled"


async def test_an_output_that_was_ready_wins_over_a_cancel(records: Records) -> None:
    claim = await records.claim(await records.submit())
    await records.store.cancel(claim.job_id, CancelledByClient())

    assert await records.end(claim, OUTPUT)
    await records.store.cancel(claim.job_id, CancelledByClient())

    assert await records.status(claim.job_id) == "succeeded"


@pytest.mark.parametrize("way", ["release", "rescue"])
async def test_a_cancelled_job_is_not_run_again(way: str, records: Records) -> None:
    claim = await records.claim(await records.submit())
    await records.store.cancel(claim.job_id, CancelledByClient())

    if way == "release":
        assert await records.store.release(claim, "leave")
    else:
        await records.expire_lease(claim.job_id)
        assert await records.rescue() == 1

    assert await records.status(claim.job_id) == "cancelled"


async def test_the_end_of_a_job_is_news(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.store.notifier.LOOK_EVERY_S", 3600)  # else a look would find it, too
    job_id = await records.submit()
    with records.store.end_of(job_id) as news:
        await asyncio.wait_for(news.wait(), 60)  # it is looked at once its channel is heard
        news.clear()

        await records.end(await records.claim(job_id), OUTPUT)

        await asyncio.wait_for(news.wait(), 60)


# --- what clients meet ---


async def test_fifty_submits_with_one_key_make_one_job(records: Records) -> None:
    request = JobRequest(messages=short_form("x", ["file-1"]))

    async def submit() -> tuple[str, bool]:
        return await records.store.submit(
            request, records.settings, owner="me", job_id=new_id("job"), idempotency=("key", "body")
        )

    answers = await asyncio.gather(*(submit() for _ in range(50)))

    assert len({job_id for job_id, _ in answers}) == 1
    assert sum(created_at is None for _, created_at in answers) == 49
    assert await records.store.counts() == {"queued": 1, "running": 0, "succeeded": 0, "failed": 0, "cancelled": 0}


async def test_a_key_with_another_body_is_refused(records: Records) -> None:
    job_id = await records.submit(idempotency=("key", "body"))

    with pytest.raises(KeyReused):
        await records.submit(idempotency=("key", "other body"))

    assert await records.submit(idempotency=("key", "body")) == job_id
    assert await records.submit(idempotency=("other key", "body")) != job_id
    assert await records.submit(idempotency=("key", "body"), owner="you") != job_id


async def test_a_key_outlives_the_end_of_its_job_and_fades(records: Records) -> None:
    job_id = await records.submit(idempotency=("key", "body"))
    await records.end(await records.claim(job_id), OUTPUT)

    assert await records.submit(idempotency=("key", "body")) == job_id
    assert 0 < await records.redis.ttl("sightline:{sightline}:idem:me:key") <= 24 * 3600


async def test_a_submit_sent_twice_by_a_broken_connection_changes_nothing(records: Records) -> None:
    """Redis's client repeats a command whose reply was lost; the first may have been done, and the job even claimed."""
    request, job_id = JobRequest(messages=short_form("x", ["file-1"])), new_id("job")
    await records.store.submit(request, records.settings, owner="me", job_id=job_id)
    claim = await records.claim(job_id)

    created_at = (await records.store.get(job_id)).created_at
    assert await records.store.submit(request, records.settings, owner="me", job_id=job_id) == (job_id, created_at)

    assert await records.status(job_id) == "running"
    assert await records.end(claim, OUTPUT)


async def test_a_submit_with_a_key_sent_twice_is_no_replay(records: Records) -> None:
    request, job_id = JobRequest(messages=short_form("x", ["file-1"])), new_id("job")
    for _ in range(2):
        given_id, created_at = await records.store.submit(
            request, records.settings, owner="me", job_id=job_id, idempotency=("key", "body")
        )
        assert given_id == job_id
        assert created_at is not None


async def test_a_full_queue_refuses_and_takes_again(records: Records) -> None:
    first, _ = await records.submit(max_queued=2), await records.submit(max_queued=2)

    with pytest.raises(QueueFull, match="2 jobs are waiting") as caught:
        await records.submit(max_queued=2)
    assert caught.value.retry_after_s

    await records.claim(first)
    await records.submit(max_queued=2)


async def test_retention_ends_in_gone_for_its_owner_only(records: Records) -> None:
    job_id = await records.submit(result_ttl_s=1)
    await records.end(await records.claim(job_id), OUTPUT)
    assert 0 < await records.redis.pttl(f"sightline:{{sightline}}:job:{job_id}") <= 1000
    await records.redis.pexpire(f"sightline:{{sightline}}:job:{job_id}", 1)
    await asyncio.sleep(0.01)

    with pytest.raises(Gone):
        await records.store.get(job_id, owner="me")
    with pytest.raises(NotFound):
        await records.store.get(job_id, owner="you")


async def test_a_job_that_has_not_ended_does_not_expire(records: Records) -> None:
    job_id = await records.submit(result_ttl_s=1)
    assert await records.redis.ttl(f"sightline:{{sightline}}:job:{job_id}") == -1
    await records.claim(job_id)
    assert await records.redis.ttl(f"sightline:{{sightline}}:job:{job_id}") == -1


@pytest.mark.parametrize("name", ["start_deadline_s", "run_timeout_s", "result_ttl_s"])
async def test_a_client_may_set_its_own_times(name: str, records: Records) -> None:
    request = JobRequest.model_validate({"messages": short_form("x", ["file-1"]), name: 77})

    await records.store.submit(request, records.settings, owner="me", job_id="job_1")

    assert await records.redis.hget("sightline:{sightline}:job:job_1", name) == "77"


async def test_a_full_queue_says_when_it_will_have_room(records: Records) -> None:
    for _ in range(40):
        await records.submit()
    with pytest.raises(QueueFull) as unknown:
        await records.submit(max_queued=40)
    for _ in range(10):
        await records.end(await records.claim(await records.submit()), OUTPUT)

    with pytest.raises(QueueFull) as known:
        await records.submit(max_queued=40)

    assert unknown.value.retry_after_s == 60
    assert known.value.retry_after_s == math.ceil(0.05 * 40 / (10 / 90))


async def test_a_cancelled_job_keeps_what_there_was(records: Records) -> None:
    claim = await records.claim(await records.submit())
    partial = OUTPUT.model_copy(update={"text": "一个红", "finish_reason": "cancelled"})

    assert await records.store.complete(claim, JobStatus.CANCELLED, output=partial, error=CancelledByClient())

    job = await records.store.get(claim.job_id)
    assert (job.status, job.output, await records.code(claim.job_id)) == ("cancelled", partial, "cancelled")


async def test_a_safe_store_passes_and_an_unsafe_one_says_what_is_wrong(records: Records) -> None:
    await StoreCheck(records.redis).check_safety()

    await records.redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(StoreUnsafe, match=r"allkeys-lru.*CONFIG SET maxmemory-policy noeviction"):
            await StoreCheck(records.redis).check_safety()
    finally:
        await records.redis.config_set("maxmemory-policy", "noeviction")


async def test_a_store_that_is_reading_its_data_is_not_judged_yet(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    """Valkey says ``aof_enabled:0`` for as long as it reads its append-only file."""
    said = await records.redis.info() | {"loading": 1, "aof_enabled": 0}

    async def info() -> dict[str, Any]:
        return said

    monkeypatch.setattr(records.redis, "info", info)
    with pytest.raises(RedisConnectionError):
        await StoreCheck(records.redis).check_safety()


async def test_nobody_sees_another_owners_job(records: Records) -> None:
    job_id = await records.submit(owner="you")

    with pytest.raises(NotFound):
        await records.store.get(job_id, owner="me")
    assert await listed(records.store, owner="me", limit=10) == ([], False)
    with pytest.raises(NotFound):
        await records.store.get(new_id("job"), owner="me")


def ids_of(jobs: Sequence[Job]) -> list[str]:
    return [job.id for job in jobs]


async def test_a_list_comes_in_pages_newest_first(records: Records) -> None:
    newest_first = [await records.submit() for _ in range(7)][::-1]
    await records.submit(owner="you")

    seen: list[str] = []
    sizes, more, after = [], True, None
    while more:
        jobs, more = await listed(records.store, owner="me", limit=3, after=after)
        seen, after = [*seen, *ids_of(jobs)], jobs[-1].id
        sizes.append(len(jobs))

    assert seen == newest_first
    assert sizes == [3, 3, 1]


async def test_a_list_of_exactly_one_page_has_no_more(records: Records) -> None:
    ids = [await records.submit() for _ in range(3)]

    jobs, more = await listed(records.store, owner="me", limit=3)

    assert (ids_of(jobs), more) == (ids[::-1], False)


async def test_a_list_passes_over_jobs_past_their_retention(records: Records) -> None:
    ids = [await records.submit() for _ in range(10)]
    for job_id in ids[2:9]:
        await records.redis.delete(f"sightline:{{sightline}}:job:{job_id}")

    first, more = await listed(records.store, owner="me", limit=2)
    rest, none_left = await listed(records.store, owner="me", limit=2, after=first[-1].id)

    assert (ids_of(first), more) == ([ids[9], ids[1]], True)
    assert (ids_of(rest), none_left) == ([ids[0]], False)


async def test_uploads_are_known_to_their_owner_until_they_expire(records: Records) -> None:
    facts = {"bytes": 12, "filename": "猫.png", "media_type": "image/png", "sha256": "ab" * 32}
    upload = await records.uploads.add("file-1", owner="me", ttl_s=60, **facts)

    assert await records.uploads.get("file-1", owner="me") == upload
    with pytest.raises(UploadUnknown):
        await records.uploads.get("file-1", owner="you")
    with pytest.raises(UploadUnknown):
        await records.uploads.get("file-2", owner="me", param="images.0")
    await records.redis.hset("sightline:{sightline}:upload:file-1", "expires_at", upload.created_at)
    with pytest.raises(UploadUnknown):
        await records.uploads.get("file-1", owner="me")


async def test_notices_of_workers_fade(records: Records) -> None:
    await records.registry.heartbeat("w1", {"name": "w1", "phase": "ready"}, ttl_s=60)
    await records.registry.heartbeat("w2", {"name": "w2", "phase": "loading"}, ttl_s=0.02)
    await asyncio.sleep(0.05)

    assert await records.registry.workers() == [{"name": "w1", "phase": "ready"}]
    await records.registry.retire("w1")
    assert await records.registry.workers() == []


async def test_a_worker_of_a_version_without_the_index_is_found_by_its_lease(records: Records) -> None:
    await records.registry.heartbeat("old", {"name": "old", "phase": "ready"}, ttl_s=60)
    await records.store.beat("old", [], lease_s=15)
    await records.redis.delete("sightline:{sightline}:notices")

    assert await records.registry.workers() == [{"name": "old", "phase": "ready"}]


async def test_the_index_of_notices_has_living_workers_and_no_look_at_all_keys(records: Records) -> None:
    """Each retired or dead worker leaves it; what a Redis holds beside workers costs nothing."""
    notices = "sightline:{sightline}:notices"
    await records.redis.config_resetstat()
    for name, ttl_s in (("alive", 60.0), ("retired", 60.0), ("dead", 0.02)):
        await records.registry.heartbeat(name, {"name": name, "phase": "ready"}, ttl_s=ttl_s)
    await records.registry.retire("retired")
    assert await records.redis.zrange(notices, 0, -1) == ["dead", "alive"]
    await asyncio.sleep(0.05)

    await records.rescue()
    await records.redis.hincrby("sightline:{sightline}:clock", "seen_ms", 3_600_000)  # type: ignore[misc]
    await records.rescue()

    assert await records.redis.zrange(notices, 0, -1) == ["alive"]
    assert [worker["name"] for worker in await records.registry.workers()] == ["alive"]
    assert not {"cmdstat_scan", "cmdstat_keys"} & (await records.redis.info("commandstats")).keys()


# --- webhooks ---

HOOK = {"url": "https://example.com/hook"}


@pytest.mark.parametrize(
    ("events", "status", "is_due"),
    [
        (["job.succeeded"], "succeeded", True),
        (["job.failed"], "succeeded", False),
        (["job.failed", "job.succeeded"], "succeeded", True),
        (["job.failed"], "failed", True),
        (["job.cancelled"], "cancelled", True),
        (["job.succeeded", "job.failed"], "cancelled", False),
        ([], "succeeded", False),
    ],
)
async def test_the_chosen_ends_make_a_delivery(events: list[str], status: str, is_due: bool, records: Records) -> None:  # noqa: FBT001
    job_id = await records.submit(webhook=HOOK | {"events": events})
    if status == "cancelled":
        await records.store.cancel(job_id, CancelledByClient())
    else:
        await records.end(await records.claim(job_id), OUTPUT if status == "succeeded" else EngineFailed())

    due = await records.due()

    assert await records.status(job_id) == status
    assert [delivery.event_id for delivery in due] == ([f"evt_{job_id.removeprefix('job_')}"] if is_due else [])


async def test_each_run_of_a_job_is_an_event_of_its_own(records: Records) -> None:
    job_id = await records.submit(webhook=HOOK | {"events": ["job.running"]})
    for _ in range(2):
        await records.store.release(await records.claim(job_id), "leave")

    due = await records.due()

    assert [(delivery.type, delivery.job_id) for delivery in due] == [("job.running", job_id)] * 2
    assert len({delivery.event_id for delivery in due}) == 2


async def test_rescue_makes_deliveries_too(records: Records) -> None:
    job_id = await records.submit(webhook=HOOK | {"payload": "thin"})
    await records.claim(job_id)
    await records.expire_lease(job_id)
    await records.rescue(max_attempts=1)

    (delivery,) = await records.due()

    assert (delivery.job_id, delivery.type, delivery.attempt) == (job_id, "job.failed", 1)
    assert delivery.created_at == (await records.store.get(job_id)).finished_at
    assert (delivery.url, delivery.payload, delivery.endpoint_id) == (HOOK["url"], "thin", "")


@pytest.fixture
async def target(records: Records) -> str:
    job_id = await records.submit(webhook=HOOK)
    await records.end(await records.claim(job_id), OUTPUT)
    (target,) = await records.targets()
    return target


async def test_two_senders_never_both_have_a_delivery(target: str, records: Records) -> None:
    taken = await asyncio.gather(*(records.due() for _ in range(20)))

    assert sum(map(len, taken)) == 1
    assert await records.due() == []


async def test_a_sender_that_dies_leaves_the_delivery_to_the_next(target: str, records: Records) -> None:
    assert await records.due(lease_s=0.02)
    await asyncio.sleep(0.05)

    (again,) = await records.due()

    assert again.attempt == 2


async def test_a_delivery_that_is_tried_again_waits(target: str, records: Records) -> None:
    (delivery,) = await records.due()

    await records.settle(delivery, "retry", log={}, next_s=60)
    assert await records.due() == []
    await records.let_time_come(target)

    (again,) = await records.due()
    assert (again.id, again.attempt, again.failures) == (delivery.id, 2, 1)


async def test_a_delivery_that_was_taken_is_not_brought_back_by_a_slow_twin(target: str, records: Records) -> None:
    (slow,) = await records.due(lease_s=0)
    (quick,) = await records.due()

    assert await records.settle(slow, "retry", log={"code": 500}, next_s=0) is False
    assert await records.settle(quick, "delivered", log={"code": 204}) is True
    for verdict in ("retry", "given_up", "delivered"):
        assert await records.settle(slow, verdict, log={"code": 500}, next_s=0) is False

    assert await records.due() == []
    (shown,) = await records.outbox.of_job(quick.job_id)
    assert shown["status"] == "delivered"
    assert [attempt["code"] for attempt in shown["attempts"]] == [204]


async def test_a_target_that_fails_gets_one_delivery_at_a_time_after_its_pause(records: Records) -> None:
    for _ in range(4):
        await records.end(await records.claim(await records.submit(webhook=HOOK)), OUTPUT)
    first, *rest = await records.due(open_after=2)
    assert len(rest) == 3
    await records.settle(first, "retry", log={}, next_s=0)
    for delivery in rest:
        await records.settle(delivery, "retry", log={}, next_s=0, pause_s=60)

    assert await records.due(open_after=2) == []  # paused
    (target,) = await records.targets()
    await records.let_time_come(target)
    (probe,) = await records.due(open_after=2)
    assert await records.due(open_after=2) == []  # until the probe has told
    await records.settle(probe, "delivered", log={})

    assert len(await records.due(open_after=2)) == 3


async def test_ids_sort_by_time_and_differ() -> None:
    ids = [new_id("job") for _ in range(1000)]

    assert len(set(ids)) == 1000
    assert ids == sorted(ids)


async def test_another_prefix_is_another_world(redis: Redis, settings: Settings) -> None:
    request = JobRequest(messages=short_form("x", ["file-1"]))
    async with connect(settings.model_copy(update={"redis_prefix": "{other}:"})) as client:
        job_id, _ = await JobStore(client).submit(request, settings, owner="me", job_id=new_id("job"))

    assert {key.split(":")[0] for key in await redis.keys("*")} == {"{other}"}
    with pytest.raises(NotFound):
        await JobStore(redis).get(job_id)


async def test_a_job_past_its_retention_leaves_the_list_and_is_remembered(records: Records) -> None:
    old, kept = [await records.submit(result_ttl_s=ttl_s) for ttl_s in (1, 1000)]
    for job_id in (old, kept):
        await records.end(await records.claim(job_id), OUTPUT)
    assert await records.store.purge_expired_jobs() == []
    await asyncio.sleep(1.01)

    assert await records.store.purge_expired_jobs() == [old]

    assert await records.store.purge_expired_jobs() == []
    assert await records.redis.zrange("sightline:{sightline}:jobs.succeeded:me", 0, -1) == [kept]
    with pytest.raises(Gone):
        await records.store.get(old, owner="me")
    for stranger, job_id in (("you", old), ("me", new_id("job"))):
        with pytest.raises(NotFound):
            await records.store.get(job_id, owner=stranger)
    assert await records.status(kept) == "succeeded"
    assert await records.redis.ttl((await records.redis.keys("sightline:{sightline}:gone:*"))[0]) > 0


async def test_a_store_whose_jobs_are_over_is_as_large_as_before(records: Records) -> None:
    """``python -m bench.retention`` measures it with 50,000 jobs."""
    for job_id in [await records.submit(result_ttl_s=1) for _ in range(20)]:
        await records.end(await records.claim(job_id), OUTPUT)
    await asyncio.sleep(1.01)
    await records.store.purge_expired_jobs()

    left = {key.removeprefix("sightline:{sightline}:").split(":")[0] for key in await records.redis.keys("*")}
    assert left == {"totals", "owner", "workers", "asked", "gone"}  # one of a service, of an owner, of a worker


# --- what Redis's own absence and its clock do ---


class Clock:
    """Moves what the scripts have written down of the time, as an outage or a step of Redis's clock would."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    async def pass_without_beats(self, seconds: float) -> None:
        """Nobody could write for so long; leases ended meanwhile."""
        await self._move(-seconds, "beat_ms")

    async def set_back(self, seconds: float) -> None:
        """All that was written before is of a later time now."""
        await self._move(seconds, "beat_ms", "seen_ms")
        for index in await self.redis.keys("sightline:{sightline}:due*") + [
            "sightline:{sightline}:workers",
            "sightline:{sightline}:delayed",
        ]:
            if index == "sightline:{sightline}:due_of":  # counts
                continue
            for member in await self.redis.zrange(index, 0, -1):
                await self.redis.zincrby(index, seconds * 1000, member)

    async def _move(self, seconds: float, *fields: str) -> None:
        for name in fields:
            await self.redis.hincrby("sightline:{sightline}:clock", name, round(seconds * 1000))  # type: ignore[misc]


@pytest.fixture
def clock(records: Records) -> Clock:
    return Clock(records.redis)


async def test_no_lease_runs_while_nobody_can_renew_it(records: Records, clock: Clock) -> None:
    await records.rescue()
    held, left = [await records.claim(await records.submit(), worker=worker) for worker in ("alive", "dead")]
    for claim in (held, left):
        await records.expire_lease(claim.job_id)
    await clock.pass_without_beats(20)

    assert await records.rescue(max_attempts=1) == 0  # the quickest to write, and none of its business
    assert (await records.beat(held)).lost == []
    await records.expire_lease(left.job_id)  # a lease later
    assert await records.rescue() == 1
    assert await records.end(held, OUTPUT)


@pytest.mark.parametrize("ahead_s", [60, -3600])
async def test_a_clock_that_is_set_ends_no_lease_and_makes_none_endless(ahead_s: int, records: Records, clock: Clock) -> None:
    await records.rescue()
    claim = await records.claim(await records.submit())
    await clock.set_back(-ahead_s)

    assert await records.rescue() == 0
    now_s, lease_ends = (
        (await records.redis.time())[0],
        await records.redis.zscore("sightline:{sightline}:workers", claim.worker),
    )
    assert lease_ends / 1000 - now_s == pytest.approx(records.settings.lease_s, abs=2)


async def test_a_known_death_needs_no_lease_after_an_outage(records: Records, clock: Clock) -> None:
    await records.rescue()
    await records.claim(await records.submit(), worker="w1")
    await clock.pass_without_beats(20)

    assert await records.store.rescue(records.settings, dead=["w1"]) == 1


async def test_second_attempts_do_not_wait_for_a_clock_that_was_set_back(records: Records, clock: Clock) -> None:
    await records.rescue()
    claim = await records.claim(await records.submit())
    assert await records.store.release(claim, "retry", after_s=2)
    await clock.set_back(3600)

    await records.rescue()

    waits_s = await records.redis.zscore("sightline:{sightline}:delayed", claim.job_id) / 1000 - (await records.redis.time())[0]
    assert waits_s == pytest.approx(2, abs=2)


async def test_notices_of_dead_workers_do_not_outlive_a_clock_that_was_set_back(records: Records, clock: Clock) -> None:
    await records.rescue()
    await records.registry.heartbeat("w", {"name": "w"}, ttl_s=3600)
    await clock.set_back(3600)

    await records.rescue()

    assert 0 < await records.redis.pttl("sightline:{sightline}:worker:w") <= 5000
    until_ms = await records.redis.zscore("sightline:{sightline}:notices", "w")
    assert until_ms <= (await records.redis.time())[0] * 1000 + 6000


async def test_webhooks_do_not_wait_for_a_clock_that_was_set_back(records: Records, clock: Clock) -> None:
    await records.end(await records.claim(await records.submit(webhook=HOOK)), OUTPUT)
    await records.outbox.mind_clock()
    (delivery,) = await records.due()
    await records.settle(delivery, "retry", log={}, next_s=0.01, pause_s=0.01)
    await clock.set_back(3600)

    await records.outbox.mind_clock()  # whoever looks first, be it a sender alone, finds it out
    await asyncio.sleep(0.1)

    assert [again.id for again in await records.due()] == [delivery.id]
