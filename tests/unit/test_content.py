"""Parts in each form that clients write: one form comes out, or a refusal that says what was wrong in plain words."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from api.job_request import JobBody
from api.openai.chat_request import ChatRequest
from api.openai.chat_to_job import to_job
from api.openai.response_request import ResponseRequest, to_chat
from api.validation import from_validation
from shared.errors import InvalidRequest, SightlineError, UnsupportedParameter
from shared.sampling_params import MAX_NAMED_TOKENS

URL = "https://example.com/a.png"
FILM = "https://example.com/a.mp4"
IMAGE = {"type": "image", "image": URL}
VIDEO = {"type": "video", "video": FILM}
TEXT = {"type": "text", "text": "请描述"}

FORMS: list[tuple[Any, dict[str, Any]]] = [
    # texts
    ("请描述", TEXT),
    (TEXT, TEXT),
    ({"text": "请描述"}, TEXT),
    ({"type": "input_text", "text": "请描述"}, TEXT),
    ({"type": "output_text", "text": "请描述", "annotations": []}, TEXT),
    ({"type": "refusal", "refusal": "请描述"}, TEXT),
    (TEXT | {"cache_control": {"type": "ephemeral"}}, TEXT),
    # pictures: OpenAI's, as vLLM takes them
    ({"type": "image_url", "image_url": {"url": URL}}, IMAGE),
    ({"type": "image_url", "image_url": URL}, IMAGE),
    ({"type": "image_url", "url": URL}, IMAGE),
    ({"image_url": URL}, IMAGE),
    ({"image_url": {"url": URL, "detail": "auto"}}, IMAGE),
    ({"type": "image_url", "image_url": {"url": URL, "detail": ""}, "uuid": "x"}, IMAGE),
    ({"type": "image_url", "image_url": {"url": URL, "detail": "low"}}, IMAGE | {"max_pixels": 512 * 512}),
    ({"type": "input_image", "image_url": URL}, IMAGE),
    ({"type": "input_image", "image_url": URL, "detail": "high", "file_id": None}, IMAGE),
    ({"type": "input_image", "file_id": "file-1"}, {"type": "image", "image": "file-1"}),
    ({"type": "image_url", "image_url": {"file_id": "file-1"}}, {"type": "image", "image": "file-1"}),
    # Qwen's
    (IMAGE, IMAGE),
    ({"image": URL}, IMAGE),
    (IMAGE | {"min_pixels": 3136, "max_pixels": 6272}, IMAGE | {"min_pixels": 3136, "max_pixels": 6272}),
    (VIDEO | {"fps": [2.0], "max_pixels": 6272}, VIDEO | {"fps": 2.0, "max_pixels": 6272}),
    (VIDEO | {"nframes": 8}, VIDEO | {"nframes": 8}),
    ({"video": FILM}, VIDEO),
    # LangChain's and Anthropic's
    ({"type": "image", "source_type": "url", "url": URL}, IMAGE),
    (
        {"type": "image", "source_type": "base64", "data": "AAAA", "mime_type": "image/png"},
        {"type": "image", "image": "data:image/png;base64,AAAA"},
    ),
    ({"type": "image", "base64": "AAAA", "mime_type": "image/png"}, {"type": "image", "image": "data:image/png;base64,AAAA"}),
    (
        {"type": "image", "source": {"type": "base64", "media_type": "image/webp", "data": "AAAA"}},
        {"type": "image", "image": "data:image/webp;base64,AAAA"},
    ),
    ({"type": "image", "source": {"type": "url", "url": URL}}, IMAGE),
    # videos
    ({"type": "video_url", "video_url": {"url": FILM}}, VIDEO),
    ({"type": "video_url", "video_url": FILM, "fps": 1}, VIDEO | {"fps": 1.0}),
    ({"type": "video_url", "video_url": {"url": FILM, "fps": 1}}, VIDEO | {"fps": 1.0}),
    ({"type": "input_video", "video_url": FILM}, VIDEO),
    # files of either kind
    ({"type": "file", "file": {"file_id": "file-1"}}, {"type": "file", "file": "file-1"}),
    (
        {"type": "file", "file": {"file_data": "data:x;base64,AA", "filename": "a.mp4"}},
        {"type": "file", "file": "data:x;base64,AA"},
    ),
    ({"type": "input_file", "file_url": FILM, "filename": "a.mp4"}, {"type": "file", "file": FILM}),
    ({"type": "input_file", "file_id": "file-1"}, {"type": "file", "file": "file-1"}),
]


def parts_of(job: Any) -> list[dict[str, Any]]:
    return [part.model_dump(exclude_none=True) for part in job.messages[0].parts]


@pytest.mark.parametrize(("given", "wanted"), FORMS, ids=lambda value: str(value)[:60])
def test_every_form_of_a_part_is_understood_at_every_door(given: Any, wanted: dict[str, Any]) -> None:
    turn = {"role": "user", "content": [given, "b"]}

    job = JobBody.model_validate({"messages": [turn]}).to_job()
    chat = ChatRequest.model_validate({"model": "m", "messages": [turn]})
    response = ResponseRequest.model_validate({"model": "m", "input": [turn]})

    for found in (job, *(to_job(one, start_deadline_s=60, max_model_len=9) for one in (chat, to_chat(response)))):
        assert parts_of(found) == [wanted, {"type": "text", "text": "b"}]


def test_one_part_may_stand_alone_and_an_answer_may_be_empty() -> None:
    messages = [{"role": "assistant", "content": None}, {"role": "assistant"}, {"role": "user", "content": TEXT, "name": "a"}]

    job = to_job(ChatRequest.model_validate({"model": "m", "messages": messages}), start_deadline_s=60, max_model_len=9)

    assert [message.content for message in job.messages[:2]] == ["", ""]
    assert job.messages[2].parts[0].model_dump() == TEXT


REFUSED: list[tuple[Any, str]] = [
    ({"type": "audio_url", "audio_url": URL}, "audio_url"),
    ({"type": "input_audio", "input_audio": {"data": "x"}}, "input_audio"),
    ({"type": "image_url"}, "names its file"),
    ({"type": "image_url", "image_url": {}}, "names its file"),
    ({"type": "image_url", "image_url": {"url": ""}}, "names its file"),
    ({"type": "image_url", "image_url": 5}, "text"),
    ({"type": "image_url", "image_url": {"url": URL, "detail": "huge"}}, "detail is auto"),
    ({"type": "image_url", "image_url": {"url": URL}, "fps": 2}, "no 'fps'"),
    ({"type": "image_url", "image_url": {"url": URL}, "crop": [1]}, "no 'crop'"),
    ({"type": "video", "video": FILM, "fps": 2, "nframes": 8}, "not both"),
    ({"type": "video", "video": FILM, "fps": [1, 2]}, "number"),
    ({"type": "video", "video": FILM, "fps": 0}, "more than 0"),
    ({"type": "text"}, "text"),
    ({"type": "text", "text": 5}, "a text, not a number"),
    ({"type": ["text"]}, "type"),
    ({"nothing": 1}, "has a type"),
    (5, "a text or an object"),
    (None, "a text or an object"),
]
#: What belongs to Python's libraries and says nothing to others.
FOREIGN = ("dictionary", "discriminator", "Field required", "Input should", "pydantic", "union", "list[", "Extra inputs")


@pytest.mark.parametrize(("part", "word"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_is_no_part_is_refused_in_plain_words(part: Any, word: str) -> None:
    turn = {"role": "user", "content": [TEXT, part]}
    for body, model in (({"messages": [turn]}, JobBody), ({"model": "m", "messages": [turn]}, ChatRequest)):
        with pytest.raises(ValidationError) as caught:
            model.model_validate(body)

        error = from_validation(list(caught.value.errors()))
        assert error.code in {"invalid_request", "bad_media_reference"}
        assert word in error.message
        assert str(error.param).startswith("messages.0.content.1")
        assert not any(foreign in error.message for foreign in FOREIGN)


def chat_job(**given: Any) -> Any:
    body = {"model": "m", "messages": [{"role": "user", "content": [VIDEO, IMAGE, TEXT]}]} | given
    return to_job(ChatRequest.model_validate(body), start_deadline_s=60, max_model_len=1000)


@pytest.mark.parametrize(
    ("given", "video", "image"),
    [
        ({"mm_processor_kwargs": {"fps": 1}}, {"fps": 1.0}, {}),
        ({"mm_processor_kwargs": {"fps": [2.0], "do_sample_frames": False}}, {"fps": 2.0}, {}),
        ({"mm_processor_kwargs": {"max_pixels": 6272}}, {"max_pixels": 6272}, {"max_pixels": 6272}),
        (
            {"mm_processor_kwargs": {"size": {"shortest_edge": 3136, "longest_edge": 6272}}},
            {"min_pixels": 3136, "max_pixels": 6272},
            {"min_pixels": 3136, "max_pixels": 6272},
        ),
        ({"media_io_kwargs": {"video": {"num_frames": 4}}}, {"nframes": 4}, {}),
        ({"media_io_kwargs": {"video": {"fps": 3}}}, {"fps": 3.0}, {}),
    ],
)
def test_wishes_for_all_media_reach_each(given: dict[str, Any], video: dict[str, Any], image: dict[str, Any]) -> None:
    assert parts_of(chat_job(**given)) == [VIDEO | video, IMAGE | image, TEXT]


def test_a_parts_own_wish_goes_before_those_for_all() -> None:
    own = {"type": "video_url", "video_url": {"url": FILM}, "fps": 1}
    low = {"type": "image_url", "image_url": {"url": URL, "detail": "low"}}
    job = chat_job(
        messages=[{"role": "user", "content": [own, low]}],
        mm_processor_kwargs={"max_pixels": 1_000_000},
        media_io_kwargs={"video": {"num_frames": 4}},
    )

    assert parts_of(job) == [VIDEO | {"fps": 1.0, "max_pixels": 1_000_000}, IMAGE | {"max_pixels": 512 * 512}]


def test_an_answer_without_a_limit_may_fill_the_context() -> None:
    assert chat_job().sampling.max_tokens is None
    assert chat_job(max_tokens=7).sampling.max_tokens == 7
    assert JobBody.model_validate({"prompt": "x", "images": ["a"]}).to_job().sampling.max_tokens == 512


def test_what_is_said_of_tokens_fits_a_record() -> None:
    with pytest.raises(InvalidRequest, match="lower one of the three") as caught:
        chat_job(logprobs=True, top_logprobs=20, max_tokens=1000, n=3, temperature=1)
    assert caught.value.param == "logprobs"

    assert chat_job(logprobs=True, top_logprobs=20, max_tokens=1000, n=2, temperature=1).sampling.most_tokens == 1000
    assert chat_job(logprobs=True, top_logprobs=19, n=5, temperature=1).sampling.most_tokens == MAX_NAMED_TOKENS // 100
    assert chat_job().sampling.most_tokens is None


@pytest.mark.parametrize(
    "harmless",
    [
        {"n": 1, "logprobs": False, "top_logprobs": 0, "logit_bias": {}, "tools": [], "modalities": ["text"]},
        {"user": "x", "store": True, "service_tier": "auto", "parallel_tool_calls": True, "prompt_cache_key": "x"},
        {
            "top_k": -1,
            "min_p": 0,
            "frequency_penalty": 0,
            "ignore_eos": False,
            "chat_template_kwargs": {"enable_thinking": False},
        },
        {"functions": None, "audio": None, "no_such_field": None},
    ],
)
def test_what_asks_for_nothing_is_taken(harmless: dict[str, Any]) -> None:
    assert chat_job(**harmless)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"n": 2, "stream": True}, "n"),
        ({"logprobs": True, "stream": True}, "logprobs"),
        ({"best_of": 2}, "best_of"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"temprature": 0.5}, "temprature"),
        ({"guided_whitespace_pattern": "a+"}, "guided_whitespace_pattern"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "chat_template_kwargs"),
        ({"fps": 2}, "fps"),
        ({"extra_body": {"top_k": 3}}, "extra_body"),
    ],
)
def test_a_wish_that_cannot_be_served_is_refused_by_its_name(given: dict[str, Any], name: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        chat_job(**given)

    assert caught.value.param == name
    assert name in caught.value.message


def test_a_misspelt_field_is_told_its_name() -> None:
    with pytest.raises(UnsupportedParameter, match="is temperature meant"):
        chat_job(temprature=0.5)


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ({"temperature": 3}, "temperature", "at most 2, not 3"),
        ({"temperature": "hot"}, "temperature", "a number, not 'hot'"),
        ({"top_k": 1.5}, "top_k", "a whole number, not 1.5"),
        ({"messages": []}, "messages", "at least 1, and has 0"),
        ({"messages": "x"}, "messages", "a list, not a text"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role", "not 'robot'"),
        ({"mm_processor_kwargs": {"fps": 1, "colour": 1}}, "mm_processor_kwargs.colour", "no such field"),
        ({"media_io_kwargs": {"audio": {}}}, "media_io_kwargs.audio", "no such field"),
        ({"stream": "maybe"}, "stream", "true or false"),
        ({"stop": ["x"] * 5}, "stop", "at most 4, and has 5"),
        ({"model": None}, "model", "a text, not null"),
    ],
)
def test_a_wrong_value_is_told_with_what_is_wanted(given: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises((ValidationError, SightlineError)) as caught:
        chat_job(**given)

    error = caught.value
    told = from_validation(list(error.errors())) if isinstance(error, ValidationError) else error
    assert isinstance(told, InvalidRequest)
    assert told.param == param
    assert words in told.message
    assert not any(foreign in told.message for foreign in FOREIGN)


@pytest.mark.parametrize(
    "harmless",
    [
        {"include": ["reasoning.encrypted_content"], "reasoning": {"summary": "auto"}},
        {"reasoning": {"effort": None, "summary": None}, "truncation": "disabled", "tools": [], "tool_choice": "auto"},
        {"user": "x", "store": True, "parallel_tool_calls": True, "prompt_cache_key": "x", "service_tier": "auto"},
    ],
)
def test_what_changes_nothing_is_taken_in_a_response(harmless: dict[str, Any]) -> None:
    wanted = ResponseRequest.model_validate({"model": "m", "input": "x"} | harmless)

    assert to_chat(wanted).messages[0].content == "x"


def test_what_would_change_a_response_is_refused() -> None:
    for wish in ({"include": ["message.output_text.logprobs"]}, {"reasoning": {"effort": "high"}}):
        with pytest.raises(UnsupportedParameter):
            to_chat(ResponseRequest.model_validate({"model": "m", "input": "x"} | wish))
