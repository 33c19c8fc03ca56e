"""The worker's side of the jobs: what it claims, holds under its lease, and ends or hands back."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

from shared.errors import RecordUnreadable, SightlineError, StartDeadline
from shared.jobs import JobRequest, JobStatus, Output, Priority, Stage
from shared.store.autopipeline import AutoPipeline
from shared.store.notifier import hear
from shared.store.records import Records
from shared.store.upkeep import error_json, log_aside

#: A script keeps Redis from others while it runs: an end takes it some 0.3 ms.
MOST_ENDS = 8
#: Jobs that were in an engine when it died are split in so many groups: a culprit among 256 is found by four further deaths and
#: 21 runs. Halves take nine deaths; one by one takes two, but 257 runs.
GROUPS = 8
#: A group is written by one call, and is no larger.
MOST_SUSPECTS = 64
#: A job's id, worker and fence, its status, its output and its error as JSON.
End = tuple[str, str, int, JobStatus, str, str]


@dataclass(frozen=True)
class Claim:
    """The right to run a job, until its worker's lease ends; every write must show ``worker`` and ``fence``."""

    job_id: str
    worker: str
    fence: int
    attempt: int
    request: JobRequest
    run_timeout_s: int
    queued_ms: int
    engine_deaths: int  #: 0; of a suspect 1, and 1 more for each engine that died with it alone
    priority: Priority = Priority.DEFAULT
    created_at: float = 0.0
    traceparent: str = ""  #: of the span that made the job; empty where it is not traced


@dataclass(frozen=True)
class Asked:
    """What a worker got that asked for jobs."""

    claims: list[Claim]
    has_more: bool  #: there is more to look at than one call may
    must_wait: bool = False  #: suspects wait for this worker: it gets nothing else until nothing is in flight


@dataclass(frozen=True)
class Beat:
    """What a worker hears of its jobs."""

    cancelled: list[str]  #: their clients want them ended
    lost: list[Claim]  #: they are another's by now, or ended
    unknown: dict[str, int]  #: jobs and fences that it holds and does not know of, since a reply never came


class Claims(Records):
    """Moves jobs for those who run them; every write shows the claim's worker and fence."""

    lasting: tuple[str, ...] = ("complete",)

    async def hang_bell(self, model: str, message: str) -> None:
        """Leave the text of a doorbell for workers of a model, so that scripts can ring; see :mod:`shared.doorbells`."""
        await self.redis.set(self._key(f"bell:{model}"), message)

    async def claim(  # noqa: PLR0913  # each is a fact of its own
        self,
        worker: str,
        model: str,
        n: int,
        *,
        n_default: int,
        n_bulk: int,
        lease_s: float,
        token: str,
        n_suspects: int = 0,
        has_served: bool = False,
    ) -> Asked:
        """Start the next jobs of a model: the most urgent class first, fair between owners, the oldest of an owner first.

        A group of suspects goes before all others, and comes without any.

        Args:
            worker: who runs them.
            model: that this worker answers as; it gets no other's jobs.
            n: most jobs to start; 0 of a worker that is full and was rung, so that others are.
            n_default: most of them of the default class.
            n_bulk: most of them lines of batches.
            lease_s: how long the worker holds its jobs without a beat.
            token: names this call, for a caller who repeats it when its reply was lost.
            n_suspects: most of a group of suspects; 0 while anything is in flight, since nothing may run beside them.
            has_served: this worker's engine has answered something since it was loaded.
        """
        errors = error_json(StartDeadline()), error_json(RecordUnreadable())
        places = n, n_default, n_bulk
        suspects = n_suspects, int(has_served)
        answer = await self._run("claim", worker, token, int(lease_s * 1000), model, *places, *errors, *suspects)
        has_more, now_ms, aside, given, must_wait = answer
        log_aside(aside)
        claims = [claim for facts in given if (claim := await self._claimed(worker, now_ms, facts))]
        return Asked(claims, bool(has_more), bool(must_wait))

    async def _claimed(self, worker: str, now_ms: int, facts: list[Any]) -> Claim | None:
        job_id, fence, attempt, request, run_timeout_s, created_ms, deaths, priority, *traced = facts
        try:
            return Claim(
                *(job_id, worker, fence, attempt, JobRequest.model_validate_json(request), run_timeout_s),
                queued_ms=now_ms - created_ms,
                engine_deaths=deaths,
                priority=Priority(priority),
                created_at=created_ms / 1000,
                traceparent="".join(traced),
            )
        except ValueError:  # no JSON, or a later version's
            log_aside([job_id])
            error = error_json(RecordUnreadable())
            await self._ends.send((job_id, worker, fence, JobStatus.FAILED, "", error))
            return None

    async def beat(self, worker: str, claims: Sequence[Claim], *, lease_s: float) -> Beat:
        """Renew a worker's lease; one without jobs beats, too, since leases run only while somebody does.

        Args:
            worker: whose lease.
            claims: all that it holds, as it knows.
            lease_s: how long it lasts.
        """
        cancelled, *rest = await self._run("renew_leases", worker, int(lease_s * 1000), len(claims))
        if not rest:
            return Beat(cancelled, [], {})
        held = {job_id: int(fact.partition(" ")[0]) for job_id, fact in zip(rest[0][::2], rest[0][1::2], strict=True)}
        lost = [claim for claim in claims if held.get(claim.job_id) != claim.fence]
        known = {claim.job_id for claim in claims}
        return Beat(cancelled, lost, {job_id: fence for job_id, fence in held.items() if job_id not in known})

    async def set_stages(self, worker: str, stages: Sequence[tuple[Claim, Stage]]) -> None:
        """Say what running jobs are doing."""
        flat = [part for claim, stage in stages for part in (claim.job_id, claim.fence, stage)]
        await self._run("set_stages", worker, *flat)

    async def leave(self, worker: str, model: str) -> None:
        """Take a worker off the list of those that want jobs; its lease goes, too, where it holds none."""
        await self._run("worker_leaves", worker, model)

    async def complete(self, claim: Claim, status: JobStatus, *, output: Output | None, error: SightlineError | None) -> bool:
        """End a job, and put its webhook on the due list.

        Args:
            claim: the right to do so.
            status: a final one.
            output: what was produced; of a cancelled job, what there was by then.
            error: why it failed or was cancelled.

        Returns:
            Whether this write counted; False when the claim was lost before.

        Raises:
            NotReplicated: it was written, but may be lost with Redis's machine: the job would then run again.
        """
        output_text = output.model_dump_json(exclude_defaults=True) if output else ""
        end = claim.job_id, claim.worker, claim.fence, status, output_text, error_json(error) if error else ""
        return bool(await self._ends.send(end))

    @cached_property
    def _ends(self) -> AutoPipeline[End]:
        return self.redis.gather(self._complete)

    async def _complete(self, ends: list[End]) -> list[Any]:
        """Write ends, many in a call: what they change of an owner, and of what is counted, is written once for all of them."""
        calls = [ends[n : n + MOST_ENDS] for n in range(0, len(ends), MOST_ENDS)]
        answers = await asyncio.gather(*map(self._complete_some, calls), return_exceptions=True)
        return [
            answer
            for call, given in zip(calls, answers, strict=True)
            for answer in (given if isinstance(given, list) else [given] * len(call))
        ]

    async def _complete_some(self, ends: list[End]) -> list[int]:
        flat = (part for end in ends for part in end)
        aside, answers = await self._run("complete", error_json(RecordUnreadable()), *flat)
        log_aside(aside)
        return cast("list[int]", answers)

    async def suspect(self, claim: Claim, n_in_engine: int) -> bool:
        """Hand a job back in whose company an engine died; the attempt is not charged.

        Args:
            claim: the right to do so.
            n_in_engine: how many jobs were in that engine. They are split in groups, those together that come at the same time.
        """
        return bool(await self._suspects.send((claim, n_in_engine)))

    @cached_property
    def _suspects(self) -> AutoPipeline[tuple[Claim, int]]:
        return self.redis.gather(self._suspect)

    async def _suspect(self, jobs: list[tuple[Claim, int]]) -> list[Any]:
        """Make groups, the youngest jobs first: most pictures that kill an engine do so in their first step."""
        most = min(MOST_SUSPECTS, math.ceil(jobs[0][1] / GROUPS))
        youngest = [claim for claim, _ in reversed(jobs)]
        groups = [youngest[n : n + most] for n in range(0, len(youngest), most)]
        answers = await asyncio.gather(*(self._suspect_group(group, is_alone=jobs[0][1] == 1) for group in groups))
        return [answer for group in answers for answer in group][::-1]

    async def _suspect_group(self, claims: list[Claim], *, is_alone: bool) -> list[int]:
        flat = (part for claim in claims for part in (claim.job_id, claim.fence))
        aside, answers = await self._run("suspect", claims[0].worker, int(is_alone), error_json(RecordUnreadable()), *flat)
        log_aside(aside)
        return cast("list[int]", answers)

    async def release(self, claim: Claim, why: Literal["retry", "leave"], *, after_s: float = 0.0) -> bool:
        """Hand a claimed job back.

        Args:
            claim: the right to do so.
            why: ``retry`` charges the attempt, ``leave`` does not: the worker goes.
            after_s: when it may start again.
        """
        return await self.release_held(claim.worker, claim.job_id, claim.fence, why, after_s=after_s)

    async def release_held(
        self, worker: str, job_id: str, fence: int, why: Literal["retry", "leave"] = "leave", *, after_s: float = 0.0
    ) -> bool:
        """Hand a job back by its fence alone."""
        return bool(await self._run("release", job_id, worker, fence, why, int(after_s * 1000)))

    async def cancels(self) -> AsyncGenerator[str]:
        """Hear of running jobs that are to be cancelled. Messages can be missed: the record is what counts."""
        async with aclosing(hear(self.redis, self._key("cancels"))) as messages:
            async for _, job_id in messages:
                if job_id is not None:
                    yield job_id
