"""The events of a response's stream, as they follow from its job's log."""

from __future__ import annotations

from typing import Any

import pytest

from api.openai.response_view import ResponseEvents
from shared.errors import StreamBroken
from shared.jobs import EngineInfo, Job, JobStatus, Output, Usage
from shared.store.event_log import Entry

TOLD: dict[str, Any] = {"model": "qwen-vl", "background": True}
NEW = Job(id="job_1", status=JobStatus.QUEUED, created_at=1.0)
DELTA = "response.output_text.delta"


def entry(kind: str, **data: Any) -> Entry:
    return Entry("1", kind, {"id": "job_1", **data})


def ended(text: str, status: JobStatus = JobStatus.SUCCEEDED) -> Entry:
    counts = Usage(prompt_tokens=1, vision_tokens=0, output_tokens=1)
    output = Output(text=text, finish_reason="stop", usage=counts, engine=EngineInfo(name="x", version="1", model="m"))
    job = NEW.model_copy(update={"status": status, "output": output})
    return Entry("9", f"job.{status}", job.model_dump(mode="json"))


def tell(*entries: Entry) -> list[dict[str, Any]]:
    story = ResponseEvents(NEW, TOLD)
    return [event for heard in entries for event in story.hear(heard)]


def said(events: list[dict[str, Any]]) -> list[str]:
    return [event["delta"] for event in events if event["type"] == DELTA]


def test_a_job_that_begins_again_is_told_once() -> None:
    again = [entry("job.reset"), entry("job.queued"), entry("job.running")]
    told = [entry("job.queued"), entry("job.running"), entry("job.stage"), entry("job.delta", text="一个红")]
    events = tell(*told, *again, entry("job.delta", text="一个"), entry("job.delta", text="红色的圆"), ended("一个红色的圆。"))

    assert said(events) == ["一个红", "色的圆", "。"]
    assert [event["sequence_number"] for event in events] == list(range(12))
    assert len({event["type"] for event in events}) == 10  # only the text comes more than once


def test_a_text_without_a_letter_is_opened_and_closed() -> None:
    kinds = [event["type"] for event in tell(entry("job.queued"), entry("job.running"), ended(""))]

    assert kinds.index("response.content_part.added") < kinds.index("response.output_text.done")
    assert DELTA not in kinds


@pytest.mark.parametrize("last", [entry("history_truncated"), entry("job.delta", text="two"), ended("two")])
def test_what_cannot_be_told_truly_breaks_the_stream(last: Entry) -> None:
    begun = [entry("job.queued"), entry("job.running"), entry("job.delta", text="one"), entry("job.reset")]

    with pytest.raises(StreamBroken):
        tell(*begun, last)


def test_a_cancelled_response_keeps_its_text() -> None:
    *_, last = tell(entry("job.queued"), entry("job.delta", text="一个"), ended("一个", JobStatus.CANCELLED))

    assert (last["type"], last["response"]["status"]) == ("response.cancelled", "cancelled")
    assert last["response"]["output"][0]["status"] == "incomplete"
    assert last["response"]["output"][0]["content"][0]["text"] == "一个"
