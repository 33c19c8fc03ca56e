"""What Prometheus and traces are told of an attempt: in its job's trace it is a span, and in that is one for each step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from shared.jobs import Output, Stage
from shared.sampling_params import Sampling
from shared.store.claims import Claim
from shared.store.upkeep import LostAttempt
from shared.tracing import Facts, Span, job_facts, tracer
from worker.job_metrics import ATTEMPTS

#: What a worker does with a job. Between decoding and the engine it waits for the engine's door, and for jobs that run alone.
Step = Literal["fetch", "decode", "wait", "generate"]
STEPS: dict[Stage, Step] = {Stage.FETCHING: "fetch", Stage.DECODING: "decode", Stage.GENERATING: "generate"}


class Attempt:
    """Tells of an attempt."""

    def __init__(self, span: Span | None = None) -> None:
        """Begin before the first step."""
        self._span, self._step, self._began_ns = span or Span(), "", 0

    def enter(self, step: Step) -> None:
        """Begin a step; the one before is over."""
        self._leave()
        self._step, self._began_ns = step, time.time_ns()

    def _leave(self, code: str = "") -> None:
        if self._step:
            self._span.step(self._step, self._began_ns, time.time_ns(), error=code)
        self._step = ""

    def generated(self, output: Output, sampling: Sampling) -> None:
        """The engine has answered, and says for how long it rendered: what was one step are two."""
        rendered_ns = self._began_ns + output.timings_ms.get("render", 0) * 10**6
        self._span.step("render", self._began_ns, rendered_ns)
        self._span.step("generate", rendered_ns, time.time_ns(), _generated(output, sampling))
        self._step = ""

    def over(self, outcome: str, code: str = "") -> None:
        """Say what came of it: the job's final state, ``retried``, ``handed_back`` or ``suspected``; and by which error."""
        ATTEMPTS.labels(outcome).inc()
        self._leave(code)
        self._span.tell({"sightline.outcome": outcome})
        if code:
            self._span.fail(code)

    def lost(self) -> None:
        """The job is another worker's by now: who rescued it has told of this attempt."""
        ATTEMPTS.labels("lost").inc()
        self._leave("worker_lost")
        self._span.drop()


@contextmanager
def attempt_of(claim: Claim, model: str) -> Iterator[Attempt]:
    """Tell of an attempt while the block runs."""
    facts = _facts(claim.job_id, model, claim.priority, claim.worker, claim.attempt)
    key = f"{claim.job_id}-{claim.fence}"
    with tracer().span("process job", "consumer", facts, parent=claim.traceparent, key=key) as span:
        yield Attempt(span)


def tell_lost(lost: LostAttempt) -> None:
    """Tell of an attempt whose worker is gone, in that one's place."""
    facts = _facts(lost.job_id, lost.model, lost.priority, lost.worker, lost.attempt) | {
        "sightline.outcome": "lost",
        "sightline.stage": lost.stage,
    }
    key, began_ns = f"{lost.job_id}-{lost.fence}", lost.began_ms * 10**6
    with tracer().span("process job", "consumer", facts, parent=lost.traceparent, key=key, began_ns=began_ns) as span:
        span.fail("worker_lost")


def _facts(job_id: str, model: str, priority: str, worker: str, attempt: int) -> dict[str, str | int]:
    return job_facts("process", job_id, model, priority) | {"messaging.client.id": worker, "sightline.attempt": attempt}


def _generated(output: Output, sampling: Sampling) -> Facts:
    """Give what is told of a generation, by the conventions for GenAI."""
    most_tokens = {} if sampling.max_tokens is None else {"gen_ai.request.max_tokens": sampling.max_tokens}
    return most_tokens | {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": output.engine.name,
        "gen_ai.request.model": output.engine.model,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.choice.count": sampling.n,
        "gen_ai.response.finish_reasons": [str(output.finish_reason), *(str(other.finish_reason) for other in output.others)],
        "gen_ai.usage.input_tokens": output.usage.prompt_tokens,
        "gen_ai.usage.output_tokens": output.usage.output_tokens,
        "sightline.usage.vision_tokens": output.usage.vision_tokens,
    }
