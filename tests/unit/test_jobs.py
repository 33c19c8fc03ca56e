"""What a client may ask for, and the states a job passes through."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from api.job_request import JobBody
from shared.errors import EmptyPrompt, InvalidRequest, MediaMissing, SightlineError, TooManyItems
from shared.jobs import TRANSITIONS, Job, JobRequest, JobStatus
from shared.messages import Message, media_parts, short_form
from shared.sampling_params import Sampling

IMAGE = {"type": "image", "image": "https://example.com/a.png"}
VIDEO = {"type": "video", "video": "https://example.com/a.mp4"}
TEXT = {"type": "text", "text": "请用中文描述一下这张图片"}


def messages(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def check(body: dict[str, Any]) -> None:
    given = JobBody.model_validate(body)
    with given.in_its_own_words():
        given.to_job().check(max_images=5, max_videos=1)


def test_the_short_form_becomes_one_user_message_with_media_first() -> None:
    (message,) = JobBody(prompt="Which is larger?", images=["file-1", "file-2"], video="file-3").to_job().messages

    assert message.role == "user"
    assert [part.type for part in message.parts] == ["image", "image", "video", "text"]
    assert message.parts[:3] == list(media_parts([message]))


@pytest.mark.parametrize(
    ("path", "own"),
    [
        ("messages.0.content.0", "images.0"),
        ("messages.0.content.1", "images.1"),
        ("messages.0.content.2", "video"),
        ("messages.0.content.3", "prompt"),
        ("webhook.url", "webhook.url"),
        (None, None),
    ],
)
def test_errors_name_the_short_forms_own_fields(path: str | None, own: str | None) -> None:
    with (
        pytest.raises(InvalidRequest) as caught,
        JobBody(prompt="x", images=["a", "b"], video="c").in_its_own_words(),
    ):
        raise InvalidRequest(param=path)

    assert caught.value.param == own


def test_what_both_forms_share_is_kept() -> None:
    body = {"model": "m", "metadata": {"a": 1}, "sampling": {"seed": 7}, "run_timeout_s": 9}

    job = JobBody.model_validate(body | {"prompt": "x", "images": ["a"]}).to_job()

    assert type(job) is JobRequest
    assert job == JobRequest.model_validate(body | {"messages": short_form("x", ["a"])})


def test_the_long_form_is_kept_as_it_is() -> None:
    body = {
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": [IMAGE | {"min_pixels": 200_704, "max_pixels": 1_003_520}, TEXT]},
        ],
        "sampling": {"temperature": 0.1, "top_p": 0.001, "repetition_penalty": 1.05, "max_tokens": 512},
        "webhook": {"url": "https://example.com/hook", "events": ["job.succeeded", "job.failed"]},
        "metadata": {"album": "42"},
    }

    request = JobBody.model_validate(body).to_job()

    assert request.model_dump(mode="json", exclude_unset=True) == body
    assert request.sampling == Sampling()  # those are the defaults
    assert [type(part).__name__ for m in request.messages for part in m.parts] == ["TextPart", "ImagePart", "TextPart"]


def test_a_record_reads_back_what_was_written() -> None:
    request = JobRequest.model_validate(messages(VIDEO | {"fps": 1.5}, TEXT) | {"sampling": {"seed": 7, "stop": ["。"]}})

    assert JobRequest.model_validate_json(request.model_dump_json(exclude_defaults=True)) == request


def test_transformers_name_for_the_longest_answer_is_taken() -> None:
    body = {"prompt": "x", "images": ["a"], "sampling": {"max_new_tokens": 77, "seed": 1}}

    assert JobBody.model_validate(body).to_job().sampling == Sampling(max_tokens=77, seed=1)
    with pytest.raises(ValidationError):
        JobBody.model_validate(body | {"sampling": {"max_new_tokens": 77, "max_tokens": 5}})


@pytest.mark.parametrize(
    ("body", "error", "param"),
    [
        ({}, EmptyPrompt, "prompt"),
        ({"prompt": "", "images": ["a"]}, EmptyPrompt, "prompt"),
        ({"prompt": " \n\t\u3000", "images": ["a"]}, EmptyPrompt, "prompt"),
        (messages(IMAGE), EmptyPrompt, "messages"),
        (messages(IMAGE, {"type": "text", "text": "  "}), EmptyPrompt, "messages"),
        (
            {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [IMAGE]}]},
            EmptyPrompt,
            "messages",
        ),
        ({"prompt": "What?"}, MediaMissing, "images"),
        (messages(TEXT), MediaMissing, "messages"),
        ({"prompt": "What?", "images": ["a"] * 6}, TooManyItems, "images"),
        (messages(*[IMAGE] * 6, TEXT), TooManyItems, "messages"),
        (messages(VIDEO, VIDEO, TEXT), TooManyItems, "messages"),
    ],
)
def test_what_no_engine_could_answer_is_refused(body: dict[str, Any], error: type[SightlineError], param: str) -> None:
    with pytest.raises(error) as caught:
        check(body)

    assert caught.value.param == param


def test_as_much_as_is_allowed_passes() -> None:
    check({"prompt": "What?", "images": ["a"] * 5, "video": "b"})
    check(messages(*[IMAGE] * 5, VIDEO, TEXT))


def test_media_are_counted_over_all_messages() -> None:
    turns = [{"role": role, "content": [IMAGE, TEXT]} for role in ("user", "assistant", "user", "user", "system", "user")]

    with pytest.raises(TooManyItems, match="6 pictures and 0 videos"):
        check({"messages": turns})


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "What?", "images": ["a"], "image": "b"},
        {"prompt": "What?", "images": [""]},
        {"prompt": "What?", "images": "a"},
        {"prompt": "What?", "images": [1]},
        {"prompt": 5, "images": ["a"]},
        {"prompt": "What?", "video": ""},
        {"prompt": "What?"} | messages(IMAGE, TEXT),
        {"images": ["a"]} | messages(IMAGE, TEXT),
        {"video": "a"} | messages(IMAGE, TEXT),
        messages(IMAGE | {"detail": "huge"}, TEXT),
        messages(IMAGE | {"max_pixels": 0}, TEXT),
        messages(IMAGE | {"max_pixels": 100_000_001}, TEXT),
        messages(IMAGE | {"fps": 2}, TEXT),
        messages(VIDEO | {"fps": 2, "nframes": 8}, TEXT),
        messages(VIDEO | {"fps": 0}, TEXT),
        messages(VIDEO | {"nframes": 1}, TEXT),
        messages(VIDEO | {"nframes": 769}, TEXT),
        messages({"type": "audio", "audio": "a"}, TEXT),
        messages({"picture": "a"}, TEXT),
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user"}]},
        {"messages": {}},
        {"sampling": {"temperature": -0.1}},
        {"sampling": {"temperature": 2.1}},
        {"sampling": {"temperature": float("nan")}},
        {"sampling": {"top_p": 0}},
        {"sampling": {"top_p": 1.1}},
        {"sampling": {"repetition_penalty": 0}},
        {"sampling": {"max_tokens": 0}},
        {"sampling": {"max_tokens": 32_769}},
        {"sampling": {"max_tokens": 1.5}},
        {"sampling": {"stop": ["x"] * 5}},
        {"sampling": {"stop": [""]}},
        {"sampling": {"stop": ["x" * 65]}},
        {"sampling": {"seed": -1}},
        {"sampling": {"seed": 2**63}},
        {"sampling": {"top_k": -2}},
        {"webhook": {"url": ""}},
        {"webhook": {"url": "https://example.com/" + "x" * 2048}},
        {"webhook": {"url": "https://example.com", "events": ["job.exploded"]}},
        {"webhook": {"url": "https://example.com", "secret": "x"}},
        {"metadata": {str(n): n for n in range(17)}},
        {"metadata": {"note": "圆" * 6000}},
        {"metadata": {"a": [float("nan")]}},
        {"metadata": {"a": {"b": float("inf")}}},
        {"metadata": {"a": "\ud800"}},
        {"metadata": {"\ud800": "a"}},
        {"metadata": []},
    ],
)
def test_what_the_contract_does_not_know_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        JobBody.model_validate(body)


def test_a_request_never_changes() -> None:
    with pytest.raises(ValidationError):
        JobRequest(model="x").model = "y"


def test_plain_text_content_is_one_part() -> None:
    assert [part.model_dump() for part in Message(role="user", content="hi").parts] == [{"type": "text", "text": "hi"}]


def test_the_table_knows_every_state_and_no_other() -> None:
    assert set(TRANSITIONS) == set(JobStatus)
    assert set().union(*TRANSITIONS.values()) <= set(JobStatus)
    assert {status for status in JobStatus if status.is_final} == {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}


@given(st.data())
def test_no_walk_leaves_the_table_or_a_final_state(data: st.DataObject) -> None:
    status = JobStatus.QUEUED
    for _ in range(20):
        if status.is_final:
            assert not TRANSITIONS[status]
            return
        status = data.draw(st.sampled_from(sorted(TRANSITIONS[status])))
        assert status in TRANSITIONS


def test_every_state_can_be_reached_and_every_job_can_end() -> None:
    reached, edge = {JobStatus.QUEUED}, [JobStatus.QUEUED]
    while edge:
        new = TRANSITIONS[edge.pop()] - reached
        reached |= new
        edge += new

    assert reached == set(JobStatus)
    assert all(status.is_final or TRANSITIONS[status] & {JobStatus.FAILED, JobStatus.CANCELLED} for status in JobStatus)


def test_a_job_keeps_chinese() -> None:
    job = Job(id="job_1", status=JobStatus.QUEUED, created_at=1.5, metadata={"相册": "夏天"})

    assert Job.model_validate_json(job.model_dump_json()) == job
    assert "夏天" in job.model_dump_json()
