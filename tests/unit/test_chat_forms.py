"""Forms in which local servers, editors and agents write a chat's fields: each is served, or refused by its name."""

from __future__ import annotations

from typing import Any

import pytest

from api.openai.chat_request import ChatRequest
from api.openai.chat_to_job import to_job
from shared.errors import UnsupportedParameter
from shared.jobs import JobRequest

SCHEMA = {"type": "object", "properties": {"colour": {"enum": ["red"]}}}
FLAT = {"type": "function", "name": "shape", "parameters": SCHEMA}
NESTED = {"type": "function", "function": {"name": "shape", "parameters": SCHEMA}}


def job(turn: dict[str, Any] | None = None, **more: Any) -> JobRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello."} | (turn or {})]} | more
    return to_job(ChatRequest.model_validate(body), start_deadline_s=1, max_model_len=1000)


def test_minus_one_is_no_limit_and_no_seed() -> None:
    sampling = job(max_tokens=-1, seed=-1).sampling

    assert (sampling.max_tokens, sampling.seed) == (None, None)
    assert job(max_tokens=-1, max_completion_tokens=7).sampling.max_tokens == 7


@pytest.mark.parametrize("choice", [{"type": "function", "name": "shape"}, {"type": "function", "function": {"name": "shape"}}])
def test_tools_and_their_choice_may_be_in_a_responses_form(choice: Any) -> None:
    flat, nested = job(tools=[FLAT], tool_choice=choice), job(tools=[NESTED], tool_choice=choice)

    assert flat == nested
    assert flat.tools == [NESTED]
    assert flat.sampling.response_format is not None


@pytest.mark.parametrize("word", ["none", "auto", "required"])
def test_a_choice_may_be_an_object_of_its_word(word: str) -> None:
    assert job(tools=[NESTED], tool_choice={"type": word}) == job(tools=[NESTED], tool_choice=word)


def test_a_schema_beside_json_object_holds() -> None:
    assert job(response_format={"type": "json_object", "schema": SCHEMA}) == job(guided_json=SCHEMA)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"turn": {"images": ["aGk="]}}, "messages.0.images"),
        ({"turn": {"attachments": [{"url": "x"}]}}, "messages.0.attachments"),
        ({"turn": {"function_call": {"name": "x", "arguments": "{}"}}}, "messages.0.function_call"),
        ({"turn": {"prefix": True}}, "messages.0.prefix"),
        ({"response_format": {"type": "json_object", "json_schma": SCHEMA}}, "response_format.json_schma"),
        ({"thinking": {"type": "enabled"}}, "thinking"),
    ],
)
def test_what_would_be_passed_over_is_refused_by_its_name(given: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        job(**given)

    assert caught.value.param == param


@pytest.mark.parametrize(
    "given",
    [
        {"turn": {"name": "x", "id": "m1", "reasoning_content": "Hm.", "refusal": None, "audio": None, "images": []}},
        {"thinking": {"type": "disabled"}, "think": False},
        {"response_format": {"type": "text"}},
    ],
)
def test_what_changes_nothing_is_taken(given: dict[str, Any]) -> None:
    assert job(**given) == job()
