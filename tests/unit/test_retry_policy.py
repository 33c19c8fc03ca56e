"""What a receiver's answer leads to: the schedule, the circuit, and when an endpoint is put out of use."""

from __future__ import annotations

import pytest

from shared.settings import Settings
from shared.store.deliveries import Delivery
from shared.webhook_client import Answer
from worker.webhooks.retry_policy import DISABLE_AFTER_S, MAX_PAUSE_S, OPEN_AFTER, PAUSE_S, Decision, decide

SCHEDULE_S = Settings().webhook_schedule_s


def decided(answer: Answer, *, attempt: int = 1, endpoint: str = "", failures: int = 0, failing_s: float = 0.0) -> Decision:
    delivery = Delivery(f"evt_1:{endpoint}", "", attempt, "t", "job_1", "job.failed", 1.0, "", "full", failures, failing_s)
    return decide(answer, delivery, schedule_s=SCHEDULE_S, jitter=1.0)


@pytest.mark.parametrize("code", [200, 201, 204, 299])
def test_any_success_delivers(code: int) -> None:
    assert decided(Answer(code, 1), failures=99, failing_s=1e9, endpoint="we_1") == Decision("delivered")


@pytest.mark.parametrize("answer", [Answer(301, 1), Answer(199, 1), Answer(400, 1), Answer(200, 1, error="answer_too_long")])
def test_all_else_is_tried_again(answer: Answer) -> None:
    assert decided(answer) == Decision("retry", next_s=5)


def test_ten_attempts_take_three_days() -> None:
    delays = [decided(Answer(500, 1), attempt=attempt).next_s for attempt in range(1, 10)]

    assert delays == [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400]
    assert decided(Answer(500, 1), attempt=10).verdict == "given_up"


def test_410_puts_an_endpoint_out_of_use_and_gives_up_a_jobs_own_address() -> None:
    assert decided(Answer(410, 1)).verdict == "given_up"
    gone = decided(Answer(410, 1), endpoint="we_1")
    assert (gone.verdict, gone.reason) == ("disabled", "the receiver answered 410 Gone")


def test_five_days_of_failures_put_an_endpoint_out_of_use() -> None:
    still = decided(Answer(500, 1), endpoint="we_1", failing_s=DISABLE_AFTER_S - 1)
    over = decided(Answer(0, 1, error="timeout"), endpoint="we_1", failing_s=DISABLE_AFTER_S)

    assert still.verdict == "retry"
    assert (over.verdict, over.reason) == ("disabled", "every delivery has failed for 5 days, the last one with timeout")
    assert decided(Answer(500, 1), failing_s=1e9).verdict == "retry"  # a job's own address is nobody's endpoint


def test_the_pause_begins_late_and_grows_to_its_limit() -> None:
    pauses = [decided(Answer(500, 1), failures=n).pause_s for n in range(20)]

    assert pauses[: OPEN_AFTER - 1] == [0.0] * (OPEN_AFTER - 1)
    assert pauses[OPEN_AFTER - 1 : OPEN_AFTER + 2] == [PAUSE_S, 2 * PAUSE_S, 4 * PAUSE_S]
    assert max(pauses) == pauses[-1] == MAX_PAUSE_S


@pytest.mark.parametrize(("asked_s", "next_s"), [(1, 5), (60, 60), (1e9, 86_400)])
def test_retry_after_is_heeded_within_a_day(asked_s: float, next_s: float) -> None:
    decision = decided(Answer(429, 1, retry_after_s=asked_s))

    assert (decision.verdict, decision.next_s, decision.pause_s) == ("retry", next_s, min(asked_s, 86_400))
