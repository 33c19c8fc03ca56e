"""The job records as a state machine: whatever clients, workers and time do, in any order, each job's history is legal.

The law: a job moves only as TRANSITIONS says, a final state never changes, and only the newest claim writes.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import pytest
from hypothesis import HealthCheck, note
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from shared.errors import CancelledByClient, EngineFailed, KeyReused, QueueFull
from shared.jobs import TRANSITIONS, EngineInfo, JobRequest, JobStatus, Output, Stage, Usage
from shared.messages import short_form
from shared.settings import Settings
from shared.store.api_keys import ApiKeys
from shared.store.claims import Asked, Claim
from shared.store.connection import connect
from shared.store.ids import new_id
from shared.store.jobs import JobStore

T = TypeVar("T")

MAX_ATTEMPTS, MAX_QUEUED, MAX_JOBS, MAX_RUNNING = 2, 4, 6, 1
OWNERS, WORKERS = ("me", "limited"), ("w1", "w2")
WHICH = st.integers(0, 9)
OUTPUT = Output(
    text="圆",
    finish_reason="stop",
    usage=Usage(prompt_tokens=1, vision_tokens=1, output_tokens=1),
    engine=EngineInfo(name="double", version="1", model="qwen-vl"),
)
REQUEST = JobRequest.model_validate({"messages": short_form("x", ["file-1"]), "webhook": {"url": "https://example.com"}})


@dataclass
class Expected:
    """What a job's record must say."""

    status: JobStatus = JobStatus.QUEUED
    attempt: int = 0
    fence: int = 0
    engine_deaths: int = 0
    held: bool = False  #: it waits as a suspect
    generating: bool = False  #: its record says so
    worker: str = ""
    owner: str = "me"
    cancel_wanted: bool = False
    delayed: bool = False  #: it was handed back, and may not start yet
    late: bool = False  #: its start deadline has passed
    started: bool = False  #: it ran at some time; from then on it cannot be late
    released: int = -1  #: the fence with which it was handed back last
    history: list[JobStatus] = field(default_factory=lambda: [JobStatus.QUEUED])

    def move(self, status: JobStatus, *, delayed: bool = False) -> None:
        self.status, self.delayed = status, delayed
        self.held = status is JobStatus.QUEUED and self.engine_deaths > 0 and not delayed
        self.generating = False
        if status.is_final:
            self.cancel_wanted = False

    def hand_back(self) -> bool:
        """Its worker lets it go; gives whether it is to run again."""
        self.released, self.fence = self.fence, self.fence + 1
        if self.cancel_wanted:
            self.move(JobStatus.CANCELLED)
        return self.status is not JobStatus.CANCELLED

    @property
    def is_late(self) -> bool:
        """Whether its start is refused."""
        return self.late and not self.started


has_jobs = precondition(lambda self: self.expected)
has_claims = precondition(lambda self: self.claims)


class JobMachine(RuleBasedStateMachine):
    """Clients, workers and time, against the real scripts."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings.model_copy(update={"max_attempts": MAX_ATTEMPTS, "max_queued": MAX_QUEUED})
        self.runner = asyncio.Runner()
        self.redis = connect(settings)
        self.store = JobStore(self.redis)
        self.expected: dict[str, Expected] = {}
        self.claims: list[Claim] = []
        self.keys: dict[str, tuple[str, str]] = {}
        self.over = set[str]()  #: workers whose lease is over
        self.do(self.redis.flushdb())
        self.do(ApiKeys(self.redis).limit("limited", max_running=MAX_RUNNING))

    def teardown(self) -> None:
        self.do(self.redis.aclose())
        self.runner.close()

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    def is_current(self, claim: Claim) -> bool:
        job = self.expected[claim.job_id]
        return job.status is JobStatus.RUNNING and job.fence == claim.fence

    def job(self, which: int) -> str:
        """Pick a job; 0 is the newest, so that much happens to few."""
        ids = list(self.expected)
        return ids[-1 - which % len(ids)]

    def held(self, which: int) -> Claim:
        """Pick a claim, stale ones among them; 0 is the newest."""
        return self.claims[-1 - which % len(self.claims)]

    # --- clients ---

    @precondition(lambda self: len(self.expected) < MAX_JOBS)
    @rule(key=st.sampled_from([None, None, "k1", "k2"]), body=st.sampled_from(["b1", "b2"]), owner=st.sampled_from(OWNERS))
    def submit(self, key: str | None, body: str, owner: str) -> None:
        owner = "me" if key else owner
        job_id, idempotency = new_id("job"), (key, body) if key else None
        submitting = self.store.submit(REQUEST, self.settings, owner=owner, job_id=job_id, idempotency=idempotency)
        if key in self.keys:
            first_id, first_body = self.keys[key]
            if first_body == body:
                assert self.do(submitting) == (first_id, None)
            else:
                with pytest.raises(KeyReused):
                    self.do(submitting)
            return
        if sum(job.status is JobStatus.QUEUED for job in self.expected.values()) >= MAX_QUEUED:
            with pytest.raises(QueueFull):
                self.do(submitting)
            return
        given_id, created_at = self.do(submitting)
        assert given_id == job_id
        assert created_at
        self.expected[job_id] = Expected(owner=owner)
        if key:
            self.keys[key] = (job_id, body)

    @has_jobs
    @rule(which=WHICH)
    def cancel(self, which: int) -> None:
        job_id = self.job(which)
        self.do(self.store.cancel(job_id, CancelledByClient()))
        job = self.expected[job_id]
        if job.status is JobStatus.QUEUED:
            job.move(JobStatus.CANCELLED)
        elif job.status is JobStatus.RUNNING:
            job.cancel_wanted = True

    # --- workers ---

    @rule(n=st.integers(0, 3), worker=st.sampled_from(WORKERS), is_repeated=st.booleans(), is_empty=st.booleans())
    def claim(self, n: int, worker: str, is_repeated: bool, is_empty: bool) -> None:  # noqa: FBT001
        token, n_suspects = new_id("ask"), n if is_empty else 0
        self.do(self.redis.set("sightline:{sightline}:minder:qwen-vl", "w3"))  # another one minds the suspects
        asked = self.do(self._ask(worker, n, token, n_suspects))
        if is_repeated:
            again = self.do(self._ask(worker, n, token, n_suspects)) if asked.claims else asked
            assert [claim.job_id for claim in again.claims] == [claim.job_id for claim in asked.claims]
        held = [job for job in self.expected.values() if job.held]
        if held and n_suspects:
            assert len(asked.claims) == 1
            self._take(asked, worker, held)
            return
        waiting = [
            job
            for job in self.expected.values()
            if job.status is JobStatus.QUEUED and not (job.delayed or job.held or job.is_late)
        ]
        own = [job for job in waiting if job.owner == "me"]
        free = MAX_RUNNING - sum(job.status is JobStatus.RUNNING and job.owner == "limited" for job in self.expected.values())
        assert len(asked.claims) == min(n, len(own) + max(0, min(free, len(waiting) - len(own))))
        self._take(asked, worker, waiting)

    def _take(self, asked: Asked, worker: str, waiting: list[Expected]) -> None:
        for claim in asked.claims:
            job = self.expected[claim.job_id]
            assert job in waiting
            job.started = True
            assert claim.fence > job.fence
            job.move(JobStatus.RUNNING)
            job.attempt, job.fence, job.worker = job.attempt + 1, claim.fence, worker
            assert (claim.attempt, claim.engine_deaths, claim.worker) == (job.attempt, job.engine_deaths, worker)
            assert claim.request == REQUEST
            self.claims.append(claim)
        if asked.claims:
            self.over.discard(worker)
        for job_id, job in self.expected.items():  # it came by them
            if job.is_late and self.do(self.store.get(job_id)).status is JobStatus.FAILED and job.status is JobStatus.QUEUED:
                job.move(JobStatus.FAILED)

    async def _ask(self, worker: str, n: int, token: str, n_suspects: int) -> Asked:
        places = {"n_default": n, "n_bulk": n, "n_suspects": n_suspects}
        return await self.store.claim(worker, "qwen-vl", n, **places, has_served=True, lease_s=60, token=token)

    @rule(worker=st.sampled_from(WORKERS), stage=st.sampled_from(Stage))
    def beat(self, worker: str, stage: Stage) -> None:
        held = [claim for claim in self.claims if claim.worker == worker][-4:]
        self.do(self.store.set_stages(worker, [(claim, stage) for claim in held]))
        for claim in filter(self.is_current, held):
            self.expected[claim.job_id].generating = stage is Stage.GENERATING
        beat = self.do(self.store.beat(worker, held, lease_s=60))
        self.over.discard(worker)
        running = {
            job_id: job for job_id, job in self.expected.items() if job.status is JobStatus.RUNNING and job.worker == worker
        }
        assert set(beat.cancelled) == {name for name, job in running.items() if job.cancel_wanted}
        if len(held) != len(running):
            assert beat.lost == [claim for claim in held if not self.is_current(claim)]
            assert set(beat.unknown) == running.keys() - {claim.job_id for claim in held}

    @has_claims
    @rule(which=WHICH, end=st.sampled_from([JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED]))
    def complete(self, which: int, end: JobStatus) -> None:
        claim = self.held(which)
        outcome = {JobStatus.SUCCEEDED: OUTPUT, JobStatus.FAILED: EngineFailed(), JobStatus.CANCELLED: CancelledByClient()}[end]
        output, error = (outcome, None) if isinstance(outcome, Output) else (None, outcome)
        written = self.do(self.store.complete(claim, end, output=output, error=error))
        job, current = self.expected[claim.job_id], self.is_current(claim)
        assert written == (current or (job.status is end and job.fence == claim.fence))  # the same again, as after a lost reply
        if current:
            job.move(end)

    @has_claims
    @rule(which=WHICH, why=st.sampled_from(["retry", "leave"]), after_s=st.sampled_from([0, 60]))
    def release(self, which: int, why: Literal["retry", "leave"], after_s: int) -> None:
        claim = self.held(which)
        job, current = self.expected[claim.job_id], self.is_current(claim)
        assert self.do(self.store.release(claim, why, after_s=after_s)) == (current or job.released == claim.fence)
        if not current or not job.hand_back():
            return
        job.attempt -= why != "retry"
        if why == "retry" and job.generating:
            job.engine_deaths = 0
        job.move(JobStatus.QUEUED, delayed=after_s > 0)

    @has_claims
    @rule(which=WHICH, n_in_engine=st.sampled_from([1, 2]))
    def suspect(self, which: int, n_in_engine: int) -> None:
        claim = self.held(which)
        job, current = self.expected[claim.job_id], self.is_current(claim)
        assert self.do(self.store.suspect(claim, n_in_engine)) == (current or job.released == claim.fence)
        if not current or not job.hand_back():
            return
        job.attempt -= 1
        job.engine_deaths = max(1, job.engine_deaths) + (n_in_engine == 1)
        job.move(JobStatus.QUEUED)

    @has_jobs
    @rule(dead=st.sampled_from([[], [], ["w1"], ["w1", "w2"]]))
    def rescue(self, dead: list[str]) -> None:
        self.do(self.store.rescue(self.settings, dead=dead))
        for job in self.expected.values():
            if job.status is not JobStatus.RUNNING or job.worker not in self.over | set(dead):
                continue
            job.fence += 1
            if job.cancel_wanted:
                job.move(JobStatus.CANCELLED)
            elif job.attempt >= MAX_ATTEMPTS:
                job.move(JobStatus.FAILED)
            else:
                job.move(JobStatus.QUEUED)
        self.over.clear()

    # --- time ---

    @rule(worker=st.sampled_from(WORKERS))
    def lease_ends(self, worker: str) -> None:
        if self.do(self.redis.zadd("sightline:{sightline}:workers", {worker: 1}, xx=True, ch=True)):
            self.over.add(worker)

    @precondition(lambda self: not self.over and any(job.delayed for job in self.expected.values()))
    @rule()
    def delays_end(self) -> None:
        for job_id, job in self.expected.items():
            if job.delayed:
                self.do(self.redis.zadd("sightline:{sightline}:delayed", {job_id: 1}, xx=True))
                job.move(JobStatus.QUEUED)
        self.do(self.store.rescue(self.settings))

    @has_jobs
    @rule(which=WHICH)
    def start_deadline_passes(self, which: int) -> None:
        job_id = self.job(which)
        self.do(self.redis.hset(f"sightline:{{sightline}}:job:{job_id}", "created_ms", 1))
        self.do(self.redis.zadd("sightline:{sightline}:deadlines", {job_id: 1}, xx=True))
        self.expected[job_id].late = True

    @has_jobs
    @rule()
    def fail_overdue(self) -> None:
        self.do(self.store.fail_overdue())
        for job in self.expected.values():
            if job.status is JobStatus.QUEUED and job.late and not job.started:
                job.move(JobStatus.FAILED)

    # --- the law ---

    @invariant()
    def records_say_what_happened(self) -> None:
        self.do(self._look())

    async def _look(self) -> None:
        async with self.redis.pipeline(transaction=True) as pipe:
            for job_id in self.expected:
                pipe.hgetall(f"sightline:{{sightline}}:job:{job_id}")
                pipe.ttl(f"sightline:{{sightline}}:job:{job_id}")
            answers = await pipe.execute()
        for (job_id, job), record, ttl in zip(self.expected.items(), answers[::2], answers[1::2], strict=True):
            status = JobStatus(record["status"])
            if status is not job.history[-1]:
                note(f"{job_id}: {' -> '.join([*job.history, status])}")
                assert status in TRANSITIONS[job.history[-1]]
                job.history.append(status)
            assert (status, int(record["attempt"]), int(record["fence"])) == (job.status, job.attempt, job.fence)
            assert (ttl > 0) == status.is_final
            assert ("output" in record) == (status is JobStatus.SUCCEEDED)
            assert ("error" in record) == (status in {JobStatus.FAILED, JobStatus.CANCELLED})
            assert bool(record.get("stage")) == (status is JobStatus.RUNNING)
            assert ("cancel" in record) == job.cancel_wanted
            letters = [letter for letter in re.findall(r"\d+([a-z])", record["hist"]) if letter in "qr"]
            assert letters == [status[0] for status in job.history if not status.is_final]
        await self._counts_are_what_is_there()

    async def _counts_are_what_is_there(self) -> None:
        due = await self.redis.zrange("sightline:{sightline}:due:me https://example.com", 0, -1)
        due += await self.redis.zrange("sightline:{sightline}:due:limited https://example.com", 0, -1)
        assert set(due) == {f"evt_{name[4:]}" for name, job in self.expected.items() if job.status.is_final}
        delayed = set(await self.redis.zrange("sightline:{sightline}:delayed", 0, -1))
        assert delayed == {name for name, job in self.expected.items() if job.delayed or job.held}
        suspects = set(await self.redis.zrange("sightline:{sightline}:suspects:qwen-vl", 0, -1))
        held = {name for name, job in self.expected.items() if job.held}
        assert held <= suspects
        assert all(self.expected[name].status.is_final for name in suspects - held)
        ready = await self.redis.zrange("sightline:{sightline}:ready:default:qwen-vl", 0, -1)
        for owner in OWNERS:
            jobs = {name: job for name, job in self.expected.items() if job.owner == owner}
            queued = {name for name, job in jobs.items() if job.status is JobStatus.QUEUED}
            running = [job for job in jobs.values() if job.status is JobStatus.RUNNING]
            assert set(await self.redis.zrange(f"sightline:{{sightline}}:q:default:qwen-vl:{owner}", 0, -1)) == queued - delayed
            counts = await self.redis.hmget(f"sightline:{{sightline}}:owner:{owner}", ["queued", "running"])  # type: ignore[misc]
            assert [int(count or 0) for count in counts] == [len(queued), len(running)]
            may_run = owner == "me" or len(running) < MAX_RUNNING
            assert (owner in ready) == (may_run and bool(queued - delayed))
        for worker in WORKERS:
            held = await self.redis.hgetall(f"sightline:{{sightline}}:held:{worker}")  # type: ignore[misc]
            assert held == {
                name: f"{job.fence} {job.owner}"
                for name, job in self.expected.items()
                if job.status is JobStatus.RUNNING and job.worker == worker
            }
            assert not held or await self.redis.zscore("sightline:{sightline}:workers", worker) is not None
        assert await self.store.counts() == {
            status.value: sum(job.status is status for job in self.expected.values()) for status in JobStatus
        }


def test_every_history_is_legal(settings: Settings) -> None:
    n_examples = int(os.environ.get("MACHINE_EXAMPLES", "60"))
    profile = hypothesis_settings(max_examples=n_examples, stateful_step_count=40, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(lambda: JobMachine(settings), settings=profile)
