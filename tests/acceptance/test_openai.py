"""The published openai and langchain-openai packages, unmodified, against the whole real system."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from demo.scenes import scene

pytestmark = pytest.mark.timeout(300)

SEED = 778_000
ENGLISH, CHINESE = "Describe this image.", "请用中文描述一下这张图片"
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green", "blue"]}, "count": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}


def parts(seed: int, prompt: str) -> list[Any]:
    url = f"data:image/png;base64,{base64.b64encode(scene(seed).png()).decode()}"
    return [{"type": "text", "text": prompt}, {"type": "image_url", "image_url": {"url": url}}]


@pytest.fixture
def openai(stack) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{stack.url}/v1", api_key="EMPTY", timeout=120) as client:
        yield client


def test_langchain_as_people_have_it(stack):
    from langchain_openai import ChatOpenAI  # whose import takes as long as ten tests

    chat = ChatOpenAI(model="qwen-vl", base_url=f"{stack.url}/v1", api_key="EMPTY", timeout=120)
    assert chat.invoke([("user", parts(SEED, CHINESE))]).text == scene(SEED).caption("zh")


def test_a_stream_says_the_same_as_an_answer(openai):
    messages: Any = [{"role": "user", "content": parts(SEED + 1, ENGLISH)}]
    stream = openai.chat.completions.create(
        model="qwen-vl", messages=messages, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    answer = openai.chat.completions.create(model="qwen-vl", messages=messages)

    assert "".join(c.choices[0].delta.content or "" for c in chunks) == answer.choices[0].message.content
    assert answer.choices[0].message.content == scene(SEED + 1).caption("en")
    assert last.usage == answer.usage


def test_several_texts_and_how_likely_they_were(openai):
    messages: Any = [{"role": "user", "content": parts(SEED + 9, ENGLISH)}]
    answer = openai.chat.completions.create(
        model="qwen-vl", messages=messages, temperature=0.2, n=3, logprobs=True, top_logprobs=2
    )

    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    counts = [len(choice.logprobs.content) for choice in answer.choices]
    assert answer.usage.completion_tokens == sum(counts)
    for choice in answer.choices:
        assert len(choice.message.content) > 20
        assert "".join(token.token for token in choice.logprobs.content).startswith(choice.message.content)
        for token in choice.logprobs.content:
            likeliest, second = token.top_logprobs
            assert 0 >= likeliest.logprob >= second.logprob
            assert token.logprob <= likeliest.logprob


def test_a_chat_needs_no_picture(openai):
    messages: Any = [{"role": "user", "content": "Hello."}]
    assert openai.chat.completions.create(model="qwen-vl", messages=messages, max_tokens=4).usage.completion_tokens <= 4


def test_structured_answers_are_valid(openai):
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "shapes", "schema": SCHEMA}}

    def ask(n: int) -> dict[str, Any]:
        messages: Any = [{"role": "user", "content": parts(SEED + 10 + n, ENGLISH)}]
        answer = openai.chat.completions.create(model="qwen-vl", messages=messages, response_format=wanted)
        return json.loads(answer.choices[0].message.content)

    with ThreadPoolExecutor(8) as pool:
        for said in pool.map(ask, range(16)):
            assert set(said) == {"colour", "count"}
            assert said["colour"] in {"red", "green", "blue"}
            assert 0 <= said["count"] <= 9


def test_a_call_by_name_is_valid_whatever_the_picture(openai):
    tools: Any = [{"type": "function", "function": {"name": "shapes", "parameters": SCHEMA}}]

    def ask(n: int) -> tuple[str, dict[str, Any]]:
        asked: Any = {
            "messages": [{"role": "user", "content": parts(SEED + 100 + n, ENGLISH)}],
            "tool_choice": "required" if n % 2 else {"type": "function", "function": {"name": "shapes"}},
        }
        answer = openai.chat.completions.create(model="qwen-vl", tools=tools, parallel_tool_calls=False, **asked)
        (call,) = answer.choices[0].message.tool_calls
        return call.function.name, json.loads(call.function.arguments)

    with ThreadPoolExecutor(8) as pool:
        for name, arguments in pool.map(ask, range(16)):
            assert name == "shapes"
            assert set(arguments) == {"colour", "count"}
            assert arguments["colour"] in {"red", "green", "blue"}


@pytest.mark.parametrize(
    ("form", "fits"),
    [
        ({"guided_choice": ["红", "蓝"]}, "红|蓝"),
        ({"guided_regex": "[ab]{3}"}, "[ab]{3}"),
        ({"structured_outputs": {"json": {"type": "integer", "multipleOf": 7, "minimum": 7, "maximum": 70}}}, "[1-6]?[0-9]|70"),
    ],
)
def test_a_text_is_held_to_its_form(openai, form, fits):
    messages: Any = [{"role": "user", "content": "Hello."}]
    answer = openai.chat.completions.create(model="qwen-vl", messages=messages, max_tokens=20, extra_body=form)
    assert re.fullmatch(fits, answer.choices[0].message.content)


def test_the_keyword_that_cannot_be_held_to_is_named(openai):
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(BadRequestError, match="uniqueItems"):
        openai.chat.completions.create(
            model="qwen-vl", messages=[{"role": "user", "content": "Hello."}], response_format=wanted
        )


def test_a_text_that_repeats_itself_is_ended(openai):
    loops: Any = {"frequency_penalty": -2, "presence_penalty": -2, "temperature": 0, "extra_body": {"repetition_penalty": 0.05}}
    messages: Any = [{"role": "user", "content": "Describe."}]
    (choice,) = openai.chat.completions.create(model="qwen-vl", messages=messages, **loops).choices
    *_, last = openai.chat.completions.create(model="qwen-vl", messages=messages, stream=True, **loops)

    for end in (choice, last.choices[0]):
        assert (end.finish_reason, end.stop_reason) == ("stop", "repetition")
    loops["extra_body"]["repetition_detection"] = False
    (choice,) = openai.chat.completions.create(model="qwen-vl", messages=messages, **loops).choices
    assert choice.finish_reason == "length"


@pytest.mark.parametrize("text", ["word " * 3000, "圆" * 30_000, "word " * 3_000_000], ids=["15 kB", "90 kB", "15 MB"])
def test_a_text_that_is_too_long_is_refused_at_once(openai, text):
    with pytest.raises(BadRequestError) as caught:
        openai.chat.completions.create(model="qwen-vl", messages=[{"role": "user", "content": text}])
    assert caught.value.code == "context_length_exceeded"


def test_a_schema_that_cannot_be_held_to_is_refused(openai):
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no such type"}}}
    with pytest.raises(Exception, match="json_schema") as caught:
        openai.chat.completions.create(
            model="qwen-vl", messages=[{"role": "user", "content": "Hello."}], response_format=wanted
        )
    assert (caught.value.status_code, caught.value.code) == (400, "bad_schema")


def test_what_only_the_engine_knows_to_be_wrong_is_named(openai):
    with pytest.raises(BadRequestError, match="out-of-vocab") as caught:
        openai.chat.completions.create(
            model="qwen-vl", messages=[{"role": "user", "content": "Hello."}], extra_body={"stop_token_ids": [1773]}
        )
    assert (caught.value.code, caught.value.param) == ("invalid_request", "stop_token_ids")


def test_probabilities_of_a_text_that_is_held_to_a_form_can_be_read(openai):
    form = {"structured_outputs": {"choice": ["yes", "no"]}}
    messages: Any = [{"role": "user", "content": "Hello."}]
    answer = openai.chat.completions.create(model="qwen-vl", messages=messages, logprobs=True, top_logprobs=20, extra_body=form)
    assert {likely.logprob for likely in answer.choices[0].logprobs.content[0].top_logprobs} >= {-9999.0}


def test_a_response_in_the_background_can_be_read_again(openai):
    text, image = parts(SEED + 2, CHINESE)
    content: Any = [
        {"type": "input_text", "text": text["text"]},
        {"type": "input_image", "image_url": image["image_url"]["url"], "detail": "auto"},
    ]
    asked: Any = [{"role": "user", "content": content}]
    events = list(openai.responses.create(model="qwen-vl", input=asked, background=True, stream=True))
    answer = events[-1].response
    again = openai.responses.retrieve(answer.id, stream=True, starting_after=3)

    assert (answer.status, answer.output_text) == ("completed", scene(SEED + 2).caption("zh"))
    assert openai.responses.retrieve(answer.id) == answer
    assert list(again) == events[4:]
