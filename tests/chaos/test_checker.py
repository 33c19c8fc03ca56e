"""The checker finds each kind of broken promise, and nothing in a history where all were kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.checker import check, percentile, recoveries
from tests.chaos.history import Answer, Fault, History, Seen, Submit, Told
from tests.chaos.report import misses

SUBMIT = Submit("k1", "a red square", Answer.ACCEPTED, "job_1")
DONE = Seen("job_1", 5.0, "succeeded", "a red square", finished_at=4.0, attempt=1, key="k1")
RUNNING = Seen("job_1", 1.0, "running", attempt=1, key="k1")


def history(submit: Submit = SUBMIT, *seen: Seen, last: Seen | None = DONE, **more: object) -> History:
    return History([submit], list(seen), {last.job_id: last} if last else {}, **more)  # type: ignore[arg-type]


def test_a_kept_promise_breaks_no_law() -> None:
    verdict = check(history(SUBMIT, RUNNING, replace(DONE, at_s=4.5)))
    assert verdict.broken == []
    assert (verdict.accepted, verdict.recovered, verdict.ran_again) == (1, 0, 0)
    assert verdict.ends == {"succeeded": 1}


BROKEN = {
    "a record that is gone": (history(last=None), ["lost"]),
    "a job that never ended": (history(last=RUNNING), ["stuck"]),
    "an end that another followed": (
        history(SUBMIT, Seen("job_1", 2.0, "failed", code="worker_lost", finished_at=1.5, key="k1")),
        ["visible_twice", "final_changed"],
    ),
    "an end that was taken back for a while": (
        history(SUBMIT, replace(DONE, at_s=2.0), replace(RUNNING, at_s=3.0)),
        ["final_changed"],
    ),
    "an end that was not there for a while": (
        history(SUBMIT, replace(DONE, at_s=2.0), Seen("job_1", 3.0, "missing")),
        ["final_changed"],
    ),
    "the same output at another time": (
        history(SUBMIT, replace(DONE, at_s=2.0, finished_at=1.0)),
        ["visible_twice", "final_changed"],
    ),
    "another job's output": (history(last=replace(DONE, text="a blue square")), ["wrong_output"]),
    "a cancel that nobody asked for": (history(last=replace(DONE, status="cancelled", text=None)), ["wrong_output"]),
    "a failure that no fault explains": (
        history(last=replace(DONE, status="failed", code="media_unreadable")),
        ["failed_wrongly"],
    ),
    "a job that nobody submitted": (history(replace(SUBMIT, key="k2")), ["lost", "unexpected"]),
    "a job that was refused": (history(replace(SUBMIT, answer=Answer.REFUSED, job_id=None)), ["unexpected"]),
    "an end that was never told": (history(replace(SUBMIT, webhook=True)), ["webhooks_missing"]),
    "an end that was told as another": (
        history(replace(SUBMIT, webhook=True), told=[Told("evt_1", "job_1", "failed")]),
        ["webhooks_wrong"],
    ),
    "one end told under two names": (
        history(replace(SUBMIT, webhook=True), told=[Told(event, "job_1", "succeeded") for event in ("evt_1", "evt_2")]),
        ["webhooks_wrong"],
    ),
    "a lease that nobody took down": (history(leases=["job_1"]), ["leases_leaked"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_found(name: str) -> None:
    told, laws = BROKEN[name]
    assert sorted(check(told).broken) == sorted(laws)


def test_two_jobs_of_one_submit_are_seen_twice() -> None:
    twice = history()
    twice.last["job_2"] = replace(DONE, job_id="job_2")
    assert check(twice).visible_twice == ["k1"]


def test_a_submit_without_an_answer_may_leave_a_job_or_none() -> None:
    unanswered = replace(SUBMIT, answer=Answer.UNKNOWN, job_id=None)
    with_job, without = check(history(unanswered)), check(history(unanswered, last=None))
    assert (with_job.broken, with_job.unknown, with_job.recovered) == ([], 1, 1)
    assert (without.broken, without.unknown, without.recovered) == ([], 1, 0)


def test_a_cancelled_job_keeps_the_beginning_of_its_output() -> None:
    asked = replace(SUBMIT, cancel=True)
    for text, laws in ((None, []), ("a red", []), ("a blue", ["wrong_output"])):
        assert check(history(asked, last=replace(DONE, status="cancelled", text=text))).broken == laws


def test_lost_workers_are_a_legal_end() -> None:
    verdict = check(history(last=replace(DONE, status="failed", text=None, code="worker_lost", attempt=3)))
    assert verdict.broken == []
    assert (verdict.failed_by_code, verdict.ran_again) == ({"worker_lost": 1}, 1)


def test_a_webhook_that_came_twice_is_counted_but_legal() -> None:
    told = [Told("evt_1", "job_1", "succeeded")] * 2
    verdict = check(history(replace(SUBMIT, webhook=True), told=told))
    assert (verdict.broken, verdict.webhook_duplicates) == ([], 1)


def test_recovery_lasts_until_the_end_or_the_next_blow_to_the_same_job() -> None:
    last = {"job_1": replace(DONE, finished_at=30.0), "job_2": replace(DONE, job_id="job_2", finished_at=12.5)}
    faults = [Fault("worker_kill", 10.0, "a", ("job_1", "job_2")), Fault("zombie", 26.0, "b", ("job_1",))]
    assert recoveries(faults, last) == [2.5, 4.0, 16.0]


def test_a_job_that_never_ended_has_no_recovery() -> None:
    assert recoveries([Fault("worker_kill", 10.0, "a", ("job_1",))], {"job_1": RUNNING}) == []


def test_percentiles() -> None:
    values = [float(n) for n in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7.0], 0.99), percentile([], 0.5)) == (
        50,
        99,
        7,
        None,
    )


@pytest.mark.parametrize(("ran_again", "n_wrong"), [(1, 0), (2, 1)])
def test_an_outage_makes_nothing_twice_but_what_a_death_explains(ran_again: int, n_wrong: int) -> None:
    faults = {"redis_away": 1, "redis_stopped_worker_kill": 1}
    figures = {"broken": {}, "faults": faults, "victims": {"redis_stopped_worker_kill": 1}, "failed_by_code": {}}

    found = misses(figures | {"ran_again": ran_again, "in_hand_at_outages": 20}, strict=False)

    assert len(found) == n_wrong
