"""Payloads of webhooks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import events
from shared.jobs import MAX_METADATA_BYTES, EngineInfo, Job, JobRequest, JobStatus, Output, Usage


def make_event(kind: str, created_at: float, job_id: str, job: Job | None, event_id: str = "evt_1") -> dict[str, Any]:
    return events.make_event(kind, created_at, job_id, job, event_id=event_id)


def ended(text: str = "一个红色的圆。", **given: object) -> Job:
    output = Output(
        text=text,
        finish_reason="stop",
        usage=Usage(prompt_tokens=90, vision_tokens=64, output_tokens=6),
        engine=EngineInfo(name="double", version="1", model="qwen-vl"),
        timings_ms={"total": 12},
    )
    fields = {"id": "job_1", "status": JobStatus.SUCCEEDED, "created_at": 1.0, "finished_at": 2.0, "output": output}
    return Job.model_validate(fields | given)


def n_bytes(event: dict[str, object]) -> int:
    return len(json.dumps(event, ensure_ascii=False).encode())


def test_an_event_is_the_job_with_its_type_and_time() -> None:
    event = make_event("job.succeeded", 1_767_225_600.5, "job_1", ended(metadata={"相册": "夏"}))

    assert set(event) == {"type", "timestamp", "data"}
    assert (event["type"], event["timestamp"]) == ("job.succeeded", "2026-01-01T00:00:00.500000+00:00")
    assert event["data"]["output"]["text"] == "一个红色的圆。"
    assert event["data"]["metadata"] == {"相册": "夏"}
    assert "error" not in event["data"]


def test_a_failed_job_tells_its_error() -> None:
    error = {"message": "gone", "type": "invalid_request_error", "param": None, "code": "media_unreachable"}

    event = make_event("job.failed", 1.0, "job_1", ended(status=JobStatus.FAILED, output=None, error=error))

    assert event["data"]["error"]["code"] == "media_unreachable"
    assert "output" not in event["data"]


def test_a_long_output_is_left_out_and_said_so() -> None:
    event = make_event("job.succeeded", 1.0, "job_1", ended("圆" * 7000))

    assert event["data"]["output_omitted"] is True
    assert "output" not in event["data"]
    assert event["data"]["id"] == "job_1"


@given(length=st.integers(6000, 7000), character=st.sampled_from(["a", "é", "圆", "🔴", "\n", '"', "\x01"]))
def test_a_payload_stays_under_twenty_kilobytes(length: int, character: str) -> None:
    assert n_bytes(make_event("job.succeeded", 1.0, "job_1", ended(character * length))) < 20_480


@pytest.mark.parametrize("text", ["圆", "圆" * 20_000], ids=["short", "long"])
def test_the_largest_metadata_fit_beside_the_rest(text: str) -> None:
    metadata = {"note": "x" * (MAX_METADATA_BYTES - len('{"note": ""}'))}
    assert JobRequest.model_validate({"metadata": metadata}).metadata == metadata

    event = make_event("job.succeeded", 1.0, "job_1", ended(text, metadata=metadata))

    assert n_bytes(event) < 20_480
    assert event["data"]["metadata"] == metadata


def test_the_end_of_a_response_is_told_as_openai_tells_it() -> None:
    event = make_event("response.completed", 12.7, "job_1", ended(), event_id="evt_1_response")

    assert event == {
        "id": "evt_1_response",
        "object": "event",
        "created_at": 12,
        "type": "response.completed",
        "data": {"id": "resp_1"},
    }


def test_so_is_the_end_of_a_batch() -> None:
    event = make_event("batch.failed", 12.7, "batch_1", None, event_id="evt_1")

    assert event == {"id": "evt_1", "object": "event", "created_at": 12, "type": "batch.failed", "data": {"id": "batch_1"}}
