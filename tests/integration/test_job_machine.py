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
from shared.jobs import TRANSITIONS, EngineInfo, JobRequest, JobStatus, Output, Priority, Stage, Usage, short_form
from shared.queue import DOORBELLS_OF
from shared.settings import Settings
from shared.store.connection import connect, new_id
from shared.store.jobs import Claim, JobStore

T = TypeVar("T")
DOORBELLS = DOORBELLS_OF[Priority.DEFAULT]

MAX_ATTEMPTS, MAX_QUEUED, MAX_JOBS = 2, 3, 5
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
    worker: str = ""
    cancel_wanted: bool = False
    lease_over: bool = False  #: while it runs
    ring_due: bool = False  #: while it waits
    has_no_doorbell: bool = False  #: it was handed back or rescued, and not yet rung for
    first_in_line: bool = False  #: its score is 0; time_to_ring gives 1
    late: bool = False  #: its start deadline has passed
    started: bool = False  #: it ran at some time; from then on it cannot be late
    released: int = -1  #: the fence with which it was handed back last
    history: list[JobStatus] = field(default_factory=lambda: [JobStatus.QUEUED])

    def move(self, status: JobStatus) -> None:
        self.status = status
        self.lease_over = False
        if status.is_final:
            self.cancel_wanted = False

    def wait(self, *, due: bool) -> None:
        """Be queued again, without a doorbell."""
        self.move(JobStatus.QUEUED)
        self.ring_due = self.first_in_line = due
        self.has_no_doorbell = True


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
        self.doorbells = self.n_rung = 0
        self.keys: dict[str, tuple[str, str]] = {}
        self.do(self.redis.flushdb())

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
    @rule(key=st.sampled_from([None, "k1", "k2"]), body=st.sampled_from(["b1", "b2"]))
    def submit(self, key: str | None, body: str) -> None:
        job_id, idempotency = new_id("job"), (key, body) if key else None
        submitting = self.store.submit(REQUEST, self.settings, owner="me", job_id=job_id, idempotency=idempotency)
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
        self.expected[job_id] = Expected()
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

    @has_jobs
    @rule(which=WHICH, worker=st.sampled_from(["w1", "w2"]))
    def claim(self, which: int, worker: str) -> None:
        job_id = self.job(which)
        claim = self.do(self.store.claim(job_id, worker=worker, lease_s=60))
        job = self.expected[job_id]
        if job.status is not JobStatus.QUEUED:
            assert claim is None
            return
        if job.late and not job.started:
            assert claim is None
            job.move(JobStatus.FAILED)
            return
        assert claim is not None
        job.started = True
        assert claim.fence > job.fence
        job.move(JobStatus.RUNNING)
        job.attempt, job.fence, job.worker = job.attempt + 1, claim.fence, worker
        assert (claim.attempt, claim.engine_deaths) == (job.attempt, job.engine_deaths)
        assert claim.request == REQUEST
        self.claims.append(claim)

    @has_claims
    @rule(many=st.sets(WHICH, min_size=1, max_size=4), stage=st.sampled_from(Stage))
    def beat(self, many: set[int], stage: Stage) -> None:
        held = list({claim.job_id: claim for claim in map(self.held, sorted(many, reverse=True))}.values())
        answers = self.do(self.store.beat([(claim, stage) for claim in held], lease_s=60))
        for claim, answer in zip(held, answers, strict=True):
            job = self.expected[claim.job_id]
            if not self.is_current(claim):
                assert answer == "lost"
                continue
            assert answer == ("cancel" if job.cancel_wanted else "held")
            job.lease_over = False

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
    @rule(which=WHICH, why=st.sampled_from(["retry", "leave", "suspect"]), after_s=st.sampled_from([0, 60]))
    def release(self, which: int, why: Literal["retry", "leave", "suspect"], after_s: int) -> None:
        claim = self.held(which)
        job, current = self.expected[claim.job_id], self.is_current(claim)
        assert self.do(self.store.release(claim, why, after_s=after_s)) == (current or job.released == claim.fence)
        if not current:
            return
        job.released, job.fence = job.fence, job.fence + 1
        if job.cancel_wanted:
            job.move(JobStatus.CANCELLED)
            return
        job.attempt -= why != "retry"
        job.engine_deaths += why == "suspect"
        job.wait(due=after_s == 0)

    @has_jobs
    @rule(dead=st.sampled_from([[], [], ["w1"], ["w1", "w2"]]), room=st.integers(0, 2))
    def rescue(self, dead: list[str], room: int) -> None:
        rung = self.do(self.store.rescue(self.settings, dead=dead, room=room))
        for job in self.expected.values():
            if not job.lease_over and not (job.status is JobStatus.RUNNING and job.worker in dead):
                continue
            job.fence += 1
            if job.cancel_wanted:
                job.move(JobStatus.CANCELLED)
            elif job.attempt >= MAX_ATTEMPTS:
                job.move(JobStatus.FAILED)
            else:
                job.wait(due=True)
        waiting = {job_id: job for job_id, job in self.expected.items() if job.status is JobStatus.QUEUED}
        n_missing, wanted = len(waiting) - self.doorbells, []
        for job_id, job in sorted(waiting.items(), key=lambda item: (not item[1].first_in_line, item[0])):
            if not job.ring_due:
                continue
            job.ring_due = job.first_in_line = False
            if job.has_no_doorbell or len(wanted) < n_missing:
                job.has_no_doorbell = False
                wanted.append(job_id)
        assert rung == wanted
        self.n_rung += max(0, len(wanted) - room)
        assert int(self.do(self.redis.get("{sightline}:count:rings")) or 0) == self.n_rung

    @has_jobs
    @rule(n=st.integers(0, 4))
    def doorbells_wait(self, n: int) -> None:
        """Some doorbells wait, others were lost or doubled; which jobs they name does not matter here."""
        self.do(self.redis.delete(DOORBELLS))
        if n:
            self.do(self.redis.rpush(DOORBELLS, *["{}"] * n))
        self.doorbells = n

    # --- time ---

    @has_claims
    @rule(which=WHICH)
    def lease_ends(self, which: int) -> None:
        job_id = self.held(which).job_id
        if self.do(self.redis.zadd("{sightline}:running", {job_id: 1}, xx=True, ch=True)):
            self.expected[job_id].lease_over = True

    @has_jobs
    @rule(which=WHICH)
    def time_to_ring(self, which: int) -> None:
        job_id = self.job(which)
        job = self.expected[job_id]
        if job.status is not JobStatus.QUEUED:
            return
        self.do(self.redis.zadd("{sightline}:queued", {job_id: 1}, xx=True))
        job.ring_due, job.first_in_line = True, False

    @has_jobs
    @rule(which=WHICH)
    def start_deadline_passes(self, which: int) -> None:
        job_id = self.job(which)
        self.do(self.redis.hset(f"{{sightline}}:job:{job_id}", "created_ms", 1))
        self.do(self.redis.zadd("{sightline}:deadlines", {job_id: 1}, xx=True))
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
            for name in ("queued", "running", "due:me https://example.com"):
                pipe.zrange(f"{{sightline}}:{name}", 0, -1, withscores=True)
            for job_id in self.expected:
                pipe.hgetall(f"{{sightline}}:job:{job_id}")
                pipe.ttl(f"{{sightline}}:job:{job_id}")
            pipe.time()
            scored, (seconds, micros) = (answers := await pipe.execute())[:3], answers.pop()
        (queued, running, due), rest, now_ms = map(dict, scored), answers[3:], seconds * 1000 + micros // 1000
        for (job_id, job), record, ttl in zip(self.expected.items(), rest[::2], rest[1::2], strict=True):
            status = JobStatus(record["status"])
            if status is not job.history[-1]:
                note(f"{job_id}: {' -> '.join([*job.history, status])}")
                assert status in TRANSITIONS[job.history[-1]]
                job.history.append(status)
            assert (status, int(record["attempt"]), int(record["fence"])) == (job.status, job.attempt, job.fence)
            assert (job_id in queued) == (status is JobStatus.QUEUED)
            assert (job_id in running) == (status is JobStatus.RUNNING)
            assert (queued.get(job_id, now_ms + 1) <= now_ms) == (job.ring_due and status is JobStatus.QUEUED)
            assert (running.get(job_id, now_ms + 1) <= now_ms) == job.lease_over
            assert (f"evt_{job_id.removeprefix('job_')}" in due) == status.is_final
            assert (ttl > 0) == status.is_final
            assert ("output" in record) == (status is JobStatus.SUCCEEDED)
            assert ("error" in record) == (status in {JobStatus.FAILED, JobStatus.CANCELLED})
            assert ("stage" in record) == (status is JobStatus.RUNNING)
            assert ("cancel" in record) == job.cancel_wanted
            letters = [letter for letter in re.findall(r"\d+([a-z])", record["hist"]) if letter in "qr"]
            assert letters == [status[0] for status in job.history if not status.is_final]
        assert await self.store.counts() == {
            status.value: sum(job.status is status for job in self.expected.values()) for status in JobStatus
        }


def test_every_history_is_legal(settings: Settings) -> None:
    n_examples = int(os.environ.get("MACHINE_EXAMPLES", "60"))
    profile = hypothesis_settings(max_examples=n_examples, stateful_step_count=40, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(lambda: JobMachine(settings), settings=profile)
