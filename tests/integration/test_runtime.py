"""The runtime on the double: from a doorbell to an output, with everything that can go wrong on the way."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.blobs import Blobs, inline_name
from shared.errors import CancelledByClient
from shared.jobs import Job, JobRequest, Priority, Stage
from shared.messages import short_form
from shared.settings import Settings
from shared.store.claims import Claim
from shared.store.ids import new_id
from shared.store.jobs import JobStore
from shared.store.workers import WorkerRegistry
from tests.integration.conftest import Reply, Site, Worker, stored_files, until
from tests.media import BLUE, GREEN, RED, clip, picture
from worker.phase import Phase
from worker.running_job import Running

Submit = Callable[..., Awaitable[str]]


class Jobs:
    """Submits jobs as the gateway does, and watches them."""

    def __init__(self, store: JobStore, blobs: Blobs, settings: Settings, redis: Redis, *, owner: str = "me") -> None:
        self.store, self.blobs, self.settings, self.redis, self.owner = store, blobs, settings, redis, owner

    async def submit(
        self, prompt: str = "描述一下", *files: bytes, watched: bool = False, max_pixels: int | None = None, **given: Any
    ) -> str:
        job_id = new_id("job")
        parts: list[dict[str, Any]] = []
        for n, data in enumerate(files or (picture(),)):
            name = inline_name(job_id, n)
            await self.blobs.put_bytes(name, data)
            kind = "video" if data[4:8] == b"ftyp" else "image"
            limits = {"max_pixels": max_pixels} if max_pixels else {}
            parts.append({"type": kind, kind: f"blob:{name}"} | limits)
        parts.append({"type": "text", "text": prompt})
        request = JobRequest.model_validate({"messages": [{"role": "user", "content": parts}]} | given)
        await self.store.submit(request, self.settings, owner=self.owner, job_id=job_id, watched=watched)
        return job_id

    async def end_of(self, job_id: str, *, timeout_s: float = 20) -> Job:
        async def ended() -> Job | None:
            job = await self.store.get(job_id)
            return job if job.status.is_final else None

        job: Job = await until(ended, timeout_s=timeout_s)
        return job

    async def reaches(self, job_id: str, stage: Stage) -> None:
        async def is_there() -> bool:
            return (await self.store.get(job_id)).stage is stage

        await until(is_there)

    async def ring_now(self, job_id: str) -> None:
        """Let no time pass before a job is tried again."""

        async def waits() -> bool:
            return bool(await self.redis.zadd("sightline:{sightline}:delayed", {job_id: 1}, xx=True, ch=True))

        await until(waits)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"lease_s": 2.0, "max_num_seqs": 64, "drain_s": 3.0})


@pytest.fixture
def jobs(store: JobStore, blobs: Blobs, settings: Settings, redis: Redis) -> Jobs:
    return Jobs(store, blobs, settings, redis)


@pytest.fixture
async def beating(settings: Settings) -> AsyncIterator[Worker]:
    """Give a worker whose lease, and with it its heartbeat, is short."""
    async with Worker(settings.model_copy(update={"lease_s": 0.4})).running() as worker:
        yield worker


async def test_a_job_gets_its_output_and_leaves_nothing(jobs: Jobs, worker: Worker, settings: Settings) -> None:
    job_id = await jobs.submit(
        "描述一下", picture(RED, (112, 84)), metadata={"相册": "夏"}, webhook={"url": "https://example.com"}
    )

    job = await jobs.end_of(job_id)

    assert job.status == "succeeded"
    assert job.output is not None
    assert job.output.text == "1 x 532x392 #dc1e1e; 描述一下"  # grown to min_pixels on the grid, the colour untouched
    assert job.output.finish_reason == "stop"
    assert (job.output.engine.name, job.output.engine.model) == ("double", "qwen-vl")
    assert job.output.usage.vision_tokens == 19 * 14
    assert {"queue", "fetch", "decode", "render", "generate", "total"} <= set(job.output.timings_ms)
    assert all(ms >= 0 for ms in job.output.timings_ms.values())
    assert (job.attempt, job.stage, job.metadata) == (1, None, {"相册": "夏"})
    await until(lambda: _is(not stored_files(settings)))
    assert await jobs.redis.zrange("sightline:{sightline}:due", 0, -1) == ["me https://example.com"]
    assert worker.crashes == []


async def _is(value: Any) -> Any:
    return value


async def test_pictures_and_clips_keep_their_order(jobs: Jobs, worker: Worker) -> None:
    job_id = await jobs.submit("x", picture(RED), clip([0] * 20 + [255] * 20), picture(BLUE), picture(GREEN))

    output = (await jobs.end_of(job_id)).output

    assert output is not None
    red, film, blue, green, prompt = output.text.split("; ")
    assert [part[-7:] for part in (red, blue, green)] == ["#dc1e1e", "#1e3cdc", "#1ec83c"]
    assert film.startswith("8 x ")
    dark, *_, light = film.split()[3:]
    assert int(dark[1:3], 16) < 10
    assert int(light[1:3], 16) > 245
    assert prompt == "x"


async def test_the_clients_pixel_limits_count(jobs: Jobs, worker: Worker) -> None:
    small = await jobs.submit("x", picture(RED, (640, 480)), max_pixels=78_400)

    output = (await jobs.end_of(small)).output

    assert output is not None
    width, height = (int(side) for side in output.text.split()[2].split("x"))
    assert width * height <= 78_400
    assert (width % 28, height % 28) == (0, 0)


async def test_max_tokens_reach_the_engine(jobs: Jobs, worker: Worker) -> None:
    job = await jobs.end_of(await jobs.submit("one two three four", sampling={"max_tokens": 2}))

    assert job.output is not None
    assert (job.output.finish_reason, job.output.usage.output_tokens) == ("length", 2)


async def test_sixty_four_jobs_are_in_flight_at_a_time(jobs: Jobs, settings: Settings) -> None:
    ids = [await jobs.submit("!slow 3") for _ in range(64)]

    async with Worker(settings).running() as worker:  # not before all wait: to submit them may take longer than three seconds
        ended = await asyncio.gather(*(jobs.end_of(job_id) for job_id in ids))

    assert {job.status for job in ended} == {"succeeded"}
    assert worker.engine.peak == 64
    assert sorted(worker.engine.finished) == sorted(f"{job_id}-1" for job_id in ids)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"I am a cat", "unsupported_media"),
        (picture()[:60], "media_unreadable"),
        (picture(RED, (3000, 10)), "media_unreadable"),
        (clip([0, 255])[:-300], "media_unreadable"),
        (picture(RED, (51_000, 300)), "media_too_large"),
    ],
    ids=["text", "truncated", "strip", "half-a-clip", "wide"],
)
async def test_bad_media_fail_only_their_own_job(data: bytes, code: str, jobs: Jobs, worker: Worker) -> None:
    before, bad, after = await jobs.submit(), await jobs.submit("x", data), await jobs.submit()

    failed = await jobs.end_of(bad)

    assert (failed.status, failed.attempt) == ("failed", 1)
    assert failed.error is not None
    assert failed.error["code"] == code
    assert [(await jobs.end_of(job_id)).status for job_id in (before, after)] == ["succeeded"] * 2
    assert worker.crashes == []


async def test_media_that_are_gone_fail_the_job(jobs: Jobs, worker: Worker) -> None:
    job_id = new_id("job")
    request = JobRequest(messages=short_form("x", ["file-gone"]))
    await jobs.store.submit(request, jobs.settings, owner="me", job_id=job_id)

    job = await jobs.end_of(job_id)

    assert job.error is not None
    assert job.error["code"] == "media_unreadable"


async def test_a_picture_is_fetched_from_its_address(jobs: Jobs, worker: Worker, site: Site) -> None:
    site.replies = [Reply(302, headers={"location": "/real.png"}), Reply(body=picture(BLUE))]
    request = JobRequest(messages=short_form("x", [f"{site.url}/a.png"]))
    await jobs.store.submit(request, jobs.settings, owner="me", job_id="job_1")

    output = (await jobs.end_of("job_1")).output

    assert output is not None
    assert "#1e3cdc" in output.text
    assert [asked.path for asked in site.asked] == ["/a.png", "/real.png"]


async def test_a_failure_that_may_pass_is_tried_again(jobs: Jobs, worker: Worker) -> None:
    job_id = await jobs.submit("!fail 1")
    await until(lambda: _attempts(jobs, job_id, 1, "queued"))
    await jobs.ring_now(job_id)

    job = await jobs.end_of(job_id)

    assert (job.status, job.attempt) == ("succeeded", 2)
    assert worker.engine.finished == [f"{job_id}-3"]  # the fence moved when the job was handed back, and at the second claim


async def _attempts(jobs: Jobs, job_id: str, attempt: int, status: str) -> bool:
    job = await jobs.store.get(job_id)
    return (job.attempt, job.status) == (attempt, status)


async def test_a_failure_that_stays_ends_the_job_after_the_last_attempt(jobs: Jobs, worker: Worker) -> None:
    job_id = await jobs.submit("!fail")
    await until(lambda: _attempts(jobs, job_id, 1, "queued"))
    await jobs.ring_now(job_id)

    job = await jobs.end_of(job_id)

    assert (job.status, job.attempt) == ("failed", jobs.settings.max_attempts)
    assert job.error is not None
    assert job.error["code"] == "engine_failed"


@pytest.mark.parametrize(("order", "code"), [("!long", "prompt_too_long"), ("!slow 30", "run_timeout")])
async def test_a_failure_that_cannot_pass_is_not_tried_again(order: str, code: str, jobs: Jobs, worker: Worker) -> None:
    job = await jobs.end_of(await jobs.submit(order, run_timeout_s=1))

    assert (job.status, job.attempt) == ("failed", 1)
    assert job.error is not None
    assert job.error["code"] == code


async def test_what_no_engine_should_raise_ends_one_job_and_not_the_worker(jobs: Jobs, worker: Worker) -> None:
    crashing = await jobs.submit("!crash")
    await until(lambda: _attempts(jobs, crashing, 1, "queued"))
    await jobs.ring_now(crashing)

    assert (await jobs.end_of(crashing)).status == "failed"
    assert (await jobs.end_of(await jobs.submit())).status == "succeeded"
    assert worker.crashes == []


async def test_a_cancel_while_generating_frees_the_slot_at_once(jobs: Jobs, worker: Worker, settings: Settings) -> None:
    job_id = await jobs.submit("!slow 30 two three four five six")
    await jobs.reaches(job_id, Stage.GENERATING)
    began = time.monotonic()

    await jobs.store.cancel(job_id, CancelledByClient())
    job = await jobs.end_of(job_id)

    assert time.monotonic() - began < 2
    assert (job.status, job.attempt) == ("cancelled", 1)
    assert job.error is not None
    assert job.error["code"] == "cancelled"
    assert job.output is not None
    assert (job.output.finish_reason, job.output.partial) == ("cancelled", True)
    assert worker.engine.stopped == [f"{job_id}-1"]
    assert worker.engine.running == 0
    await until(lambda: _is(not stored_files(settings)))


@pytest.mark.parametrize("by", ["client", "lease"])
async def test_a_job_that_is_stopped_before_its_first_step_frees_its_place(by: Any, jobs: Jobs, worker: Worker) -> None:
    runner = worker.runtime.runner

    def start_and_stop(claim: Claim) -> None:
        """As where the news comes in the same turn of the loop as the claim."""
        start(claim)
        runner.stop(runner.in_flight[claim.job_id], by)

    start, runner.asking._start = runner.asking._start, start_and_stop
    job_id = await jobs.submit("!slow 30")

    await until(lambda: _is(job_id not in runner.in_flight and runner.places().default == jobs.settings.in_flight))
    if by == "client":
        assert (await jobs.end_of(job_id)).status == "cancelled"


async def test_a_cancel_whose_message_was_missed_is_found_by_the_heartbeat(jobs: Jobs, beating: Worker) -> None:
    job_id = await jobs.submit("!slow 30")
    await jobs.reaches(job_id, Stage.GENERATING)

    await jobs.redis.sadd(f"sightline:{{sightline}}:orders:{beating.runtime.name}", job_id)  # type: ignore[misc]  # its message was missed

    assert (await jobs.end_of(job_id, timeout_s=60)).status == "cancelled"


async def test_a_cancel_while_fetching_stops_the_fetch(jobs: Jobs, worker: Worker, site: Site) -> None:
    site.replies = [Reply(body=bytes(200), drip_s=0.05)]
    request = JobRequest(messages=short_form("x", [site.url]))
    await jobs.store.submit(request, jobs.settings, owner="me", job_id="job_1")
    await until(lambda: _is(site.asked))

    await jobs.store.cancel("job_1", CancelledByClient())

    assert (await jobs.end_of("job_1", timeout_s=60)).status == "cancelled"


async def test_a_lease_that_was_lost_stops_the_job_and_writes_nothing(jobs: Jobs, beating: Worker) -> None:
    job_id = await jobs.submit("!slow 30")
    await jobs.reaches(job_id, Stage.GENERATING)

    await jobs.store.rescue(jobs.settings, dead=[beating.runtime.name])  # it is taken for dead
    await until(lambda: _is(beating.engine.stopped))

    assert (await jobs.store.get(job_id)).status == "running"


async def test_a_heartbeat_keeps_the_lease_of_a_long_job(jobs: Jobs, beating: Worker) -> None:
    job = await jobs.end_of(await jobs.submit("!slow 1.5"))

    assert (job.status, job.attempt) == ("succeeded", 1)


async def test_a_draining_worker_finishes_what_it_can(jobs: Jobs, worker: Worker) -> None:
    quick, slow = await jobs.submit("!hold"), await jobs.submit("!slow 30")
    await until(lambda: _is(worker.engine.running == 2))

    draining = asyncio.create_task(worker.runtime.drain())
    await until(lambda: _is(worker.runtime.readiness.phase is Phase.DRAINING))
    worker.engine.let_go.set()
    await draining

    assert (await jobs.store.get(quick)).status == "succeeded"
    handed_back = await jobs.store.get(slow)
    assert (handed_back.status, handed_back.attempt) == ("queued", 0)  # no attempt is charged
    worker.runtime.ring()
    await asyncio.sleep(0.1)
    assert (await jobs.store.get(slow)).status == "queued"  # a worker that leaves takes nothing
    await asyncio.sleep(1.1)  # its notice was put up each second
    assert await WorkerRegistry(jobs.redis).workers() == []


async def test_an_idle_worker_drains_at_once(worker: Worker) -> None:
    async with asyncio.timeout(60):
        await worker.runtime.drain()


async def test_a_job_handed_back_is_finished_by_another_worker(jobs: Jobs, settings: Settings) -> None:
    async with Worker(settings.model_copy(update={"drain_s": 0.1})).running() as leaving:
        job_id = await jobs.submit("!hold")
        await until(lambda: _is(leaving.engine.running))
        await leaving.runtime.drain()
        async with Worker(settings).running() as other:
            other.engine.let_go.set()
            job = await jobs.end_of(job_id)

    assert (job.status, job.attempt) == ("succeeded", 1)
    assert (len(leaving.engine.stopped), len(other.engine.finished)) == (1, 1)


async def test_a_job_that_waits_to_be_written_takes_no_place(worker: Worker) -> None:
    runner = worker.runtime.runner
    request = JobRequest.model_validate({"messages": [{"role": "user", "content": "What is there?"}]})
    claim = Claim("job_a", "w", 1, 1, request, run_timeout_s=60, queued_ms=0, engine_deaths=0, priority=Priority.BULK)
    empty = runner.places()

    runner.in_flight["job_a"] = running = Running(claim)
    beside_it = runner.places()
    running.needs_place = False
    beside_its_end = runner.places()
    del runner.in_flight["job_a"]  # nothing was awaited: no chore has seen it

    assert (beside_it.most, beside_it.bulk) == (empty.most - 1, empty.bulk - 1)
    assert beside_its_end == empty


async def test_logs_hold_ids_and_no_prompts(jobs: Jobs, worker: Worker, capsys: pytest.CaptureFixture[str]) -> None:
    for prompt in ("a private prompt", "!crash a private prompt", "!long a private prompt"):
        job_id = await jobs.submit(prompt, metadata={"a": "private note"})
        await until(lambda ident=job_id: _attempted(jobs, ident))

    said = ""

    async def has_told_of_the_last() -> bool:  # a worker tells of an end after it is written
        nonlocal said
        said += capsys.readouterr().out
        return job_id in said

    await until(has_told_of_the_last)
    assert "private" not in said


async def _attempted(jobs: Jobs, job_id: str) -> bool:
    job = await jobs.store.get(job_id)
    return job.attempt == 1 and job.status != "running"


async def test_the_files_of_a_job_go_with_its_retention_whoever_ended_it(jobs: Jobs, settings: Settings) -> None:
    kept = await jobs.submit()
    cancelled = await jobs.submit("x", picture(), picture(), result_ttl_s=1)
    await jobs.store.cancel(cancelled, CancelledByClient())  # while queued: no worker ever had it
    async with Worker(settings).running() as worker:
        await jobs.end_of(kept)
        await asyncio.sleep(1.01)
        await worker.runtime._janitor.purge()

    assert stored_files(settings) == set()
    assert os.listdir(settings.blobs_url) == ["inline"]  # no folder for each job either  # noqa: PTH208


async def test_any_number_of_bells_starts_a_job_once(jobs: Jobs, worker: Worker) -> None:
    job_id = await jobs.submit("!slow 0.2")
    for _ in range(20):
        worker.runtime.ring()
        await asyncio.sleep(0.005)
    await jobs.end_of(job_id)

    worker.runtime.ring()
    await asyncio.sleep(0.1)

    assert worker.engine.finished == [f"{job_id}-1"]
    assert worker.crashes == []


async def test_a_bell_that_is_lost_costs_a_second(jobs: Jobs, settings: Settings) -> None:
    async with Worker(settings).running() as worker:
        worker.is_hungry = False  # and hears nothing
        worker.runtime.runner.asking._on_hunger = lambda _: None
        job = await jobs.end_of(await jobs.submit(), timeout_s=5)

    assert job.status == "succeeded"


async def test_a_worker_says_what_it_is_doing(jobs: Jobs, worker: Worker) -> None:
    job_id = await jobs.submit("!slow 2")
    await jobs.reaches(job_id, Stage.GENERATING)

    async def busy() -> dict[str, Any] | None:
        notices = await WorkerRegistry(jobs.redis).workers()
        return notices[0] if notices and notices[0]["engine_running"] else None

    notice = await until(busy)

    assert notice["phase"] == "ready"
    assert (notice["jobs_in_flight"], notice["engine_running"], notice["engine_running_peak"]) == (1, 1, 1)
    assert notice["engine"]["name"] == "double"


async def test_an_engine_that_dies_is_replaced_and_its_jobs_run_again(jobs: Jobs, worker: Worker) -> None:
    beside = await jobs.submit("!hold")
    await until(lambda: _is(worker.engine.running))
    killer = await jobs.submit("!kill 1")
    await until(lambda: _is(len(worker.engines) == 2))
    worker.engine.let_go.set()

    ended = [await jobs.end_of(job_id) for job_id in (beside, killer)]

    assert [(job.status, job.attempt) for job in ended] == [("succeeded", 1)] * 2
    assert len(worker.engines) == 2
    assert worker.crashes == []


async def test_one_poisoned_job_among_many_is_found_out(jobs: Jobs, worker: Worker) -> None:
    poison = await jobs.submit("!slow 0.02 !kill")
    good = [await jobs.submit("!slow 0.05") for _ in range(31)]

    ended = await asyncio.gather(*(jobs.end_of(job_id, timeout_s=60) for job_id in [*good, poison]))

    assert [job.status for job in ended] == ["succeeded"] * 31 + ["failed"]
    assert ended[-1].error is not None
    assert ended[-1].error["code"] == "poison_input"
    assert len(worker.engines) - 1 <= 4  # with all others, with its group of four, and twice alone


async def test_an_engine_that_hangs_is_replaced(jobs: Jobs, settings: Settings) -> None:
    async with Worker(settings.model_copy(update={"engine_stall_s": 0.5})).running() as worker:
        beside, hanging = await jobs.submit("!slow 0.3"), await jobs.submit("!hang 1")

        ended = [await jobs.end_of(job_id) for job_id in (beside, hanging)]

    assert [job.status for job in ended] == ["succeeded"] * 2
    assert len(worker.engines) == 2


async def test_large_jobs_stand_back_for_small_ones_and_memory_is_given_back(jobs: Jobs, settings: Settings) -> None:
    """A picture of 300 vision tokens is large where a step has 256."""
    tight = settings.model_copy(update={"max_num_batched_tokens": 256, "min_pixels": 56 * 56})
    async with Worker(tight).running() as worker:
        small = await jobs.submit("!slow 3", picture(RED, (56, 56)))
        await jobs.reaches(small, Stage.GENERATING)
        large = [await jobs.submit("!slow 0.3", picture(RED, (700, 336))) for _ in range(4)]

        for job_id in [small, *large]:
            assert (await jobs.end_of(job_id)).status == "succeeded"

        assert worker.engine.peak == 2  # the small one, and one large one at a time
        assert worker.runtime.runner.media_loader.memory.used == 0
