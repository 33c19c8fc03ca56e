"""Tools: how an answer is held to a call, how calls are read out of a text, and how a chat template is told of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment
from jsonschema import Draft202012Validator

from api.openai.chat_request import ChatRequest
from api.openai.chat_to_job import to_job
from api.openai.tools import Calls, CallStream, message_of
from shared.errors import InvalidRequest
from shared.settings import ROOT
from worker.engines.tools import arrange, knows_tools

SCHEMA = {"type": "object", "properties": {"colour": {"type": "string", "enum": ["red", "blue"]}}, "required": ["colour"]}
SHAPE = {"type": "function", "function": {"name": "shape", "description": "A shape.", "parameters": SCHEMA}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
RED = '<tool_call>\n{"name": "shape", "arguments": {"colour": "red"}}\n</tool_call>'
TIME = '<tool_call>{"name": "clock", "arguments": {}}</tool_call>'


def chat(**more: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "x"}]} | more)


def calls(choice: Any = None, *tools: dict[str, Any], **more: Any) -> Calls:
    return chat(tools=list(tools or (SHAPE, CLOCK)), tool_choice=choice, **more).calls


def job(**more: Any) -> Any:
    return to_job(chat(**more), start_deadline_s=60, max_model_len=1000)


BY_NAME = {"type": "function", "function": {"name": "shape"}}


def test_a_choice_says_what_the_model_sees_and_what_the_text_is_held_to() -> None:
    none, auto, named, required = (
        job(tools=[SHAPE, CLOCK], tool_choice=choice) for choice in ("none", None, BY_NAME, "required")
    )

    assert none.tools == []
    assert [tool["function"]["name"] for tool in auto.tools] == ["shape", "clock"]
    assert none.sampling.response_format is auto.sampling.response_format is None
    assert named.sampling.response_format.json_schema.json_schema == SCHEMA
    schema = required.sampling.response_format.json_schema.json_schema
    assert (schema["type"], schema["minItems"], len(schema["items"]["anyOf"])) == ("array", 1, 2)
    one = job(tools=[SHAPE], tool_choice="required", parallel_tool_calls=False)
    assert one.sampling.response_format.json_schema.json_schema["maxItems"] == 1


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": BY_NAME}, "tool_choice"),
        ({"tools": [CLOCK], "tool_choice": BY_NAME}, "tool_choice"),
        ({"tools": [CLOCK, CLOCK]}, "tools"),
        ({"tools": [SHAPE], "tool_choice": BY_NAME, "response_format": {"type": "json_object"}}, "tool_choice"),
        ({"guided_choice": ["a"], "guided_regex": "a"}, "guided_regex"),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused(given: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        job(**given)

    assert caught.value.param == param


def tool(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", **parameters}}}


#: References as pydantic, zod's first writer and trees have them; those of two tools have the same name and mean another.
PYDANTIC = {"properties": {"c": {"$ref": "#/$defs/C"}}, "required": ["c"], "$defs": {"C": {"enum": ["red"]}}}
PYDANTIC_TOO = {"properties": {"c": {"$ref": "#/$defs/C"}}, "required": ["c"], "$defs": {"C": {"enum": ["blue"]}}}
ZOD = {
    "properties": {"a": {"enum": [1]}, "b": {"$ref": "#/properties/a"}, "c": {"$ref": "#/definitions/d"}},
    "definitions": {"d": {}},
}
TREE = {"properties": {"under": {"type": "array", "items": {"$ref": "#"}}}}


@pytest.mark.parametrize(
    ("name", "arguments", "is_valid"),
    [
        ("a", {"c": "red"}, True),
        ("a", {"c": "blue"}, False),
        ("b", {"c": "blue"}, True),
        ("b", {"c": "red"}, False),
        ("c", {"a": 1, "b": 1, "c": "x"}, True),
        ("c", {"b": 2}, False),
        ("d", {"under": [{"under": []}]}, True),
        ("d", {"under": [{"under": 1}]}, False),
    ],
)
def test_references_in_each_tool_lead_to_what_they_led_to(name: str, arguments: dict[str, Any], is_valid: Any) -> None:
    tools = [tool("a", PYDANTIC), tool("b", PYDANTIC_TOO), tool("c", ZOD), tool("d", TREE)]
    schema = job(tools=tools, tool_choice="required").sampling.response_format.json_schema.json_schema

    assert Draft202012Validator(schema).is_valid([{"name": name, "arguments": arguments}]) is is_valid


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"guided_json": SCHEMA}, {"type": "json_schema", "json_schema": {"schema": SCHEMA}}),
        ({"guided_json": json.dumps(SCHEMA)}, {"type": "json_schema", "json_schema": {"schema": SCHEMA}}),
        ({"guided_choice": ["是", "否"]}, {"type": "choice", "choice": ["是", "否"]}),
        ({"guided_regex": "[a-z]+"}, {"type": "regex", "regex": "[a-z]+"}),
        ({"guided_grammar": "root ::= 'a'"}, {"type": "grammar", "grammar": "root ::= 'a'"}),
        ({"structured_outputs": {"choice": ["a"]}}, {"type": "choice", "choice": ["a"]}),
        ({"structured_outputs": {"json": SCHEMA}}, {"type": "json_schema", "json_schema": {"schema": SCHEMA}}),
        ({"structured_outputs": {"json_object": True}}, {"type": "json_object"}),
        ({"guided_json_object": True}, {"type": "json_object"}),
    ],
)
def test_each_way_to_hold_a_text_to_a_form_is_understood(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert job(**given).sampling.response_format.model_dump(exclude_none=True, by_alias=True) == wanted


TEXTS = [
    ("none", f"Said. {RED}", f"Said. {RED}", []),
    ("auto", "Said.", "Said.", []),
    ("auto", RED, None, [("shape", '{"colour": "red"}')]),
    ("auto", f"Said.\n\n{RED}\n{TIME}", "Said.", [("shape", '{"colour": "red"}'), ("clock", "{}")]),
    ("auto", "Less < more <tool", "Less < more <tool", []),
    ("auto", "<tool_call>no JSON</tool_call>", "<tool_call>no JSON</tool_call>", []),
    ("auto", "Said. <tool_call>{", "Said. <tool_call>{", []),
    ("auto", f"Said. {TIME}<tool_call>{{", "Said.", [("clock", "{}")]),
    ("auto", 'Said. <tool_call>{"name": "clock", "arguments": {}}', "Said.", [("clock", "{}")]),
    ("required", '[{"name": "clock", "arguments": {"a": "图"}}]', None, [("clock", '{"a": "图"}')]),
    ("required", '[{"name": "clock", "arguments": {}},{"name": "clock", "arguments": {"a": 1', None, [("clock", "{}")]),
    ("required", '[{"name": "clo', '[{"name": "clo', []),
]


@pytest.mark.parametrize(("mode", "text", "said", "found"), TEXTS)
def test_calls_are_read_out_of_a_text(mode: str, text: str, said: str | None, found: list[tuple[str, str]]) -> None:
    message = message_of(calls(mode), text, "job_0198c0de")

    assert message["content"] == said
    assert [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", [])] == found
    assert len({call["id"] for call in message.get("tool_calls", [])}) == len(found)


def gathered(stream: CallStream, pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """Put the deltas of a stream together as the openai package does."""
    said, found = "", dict[int, list[str]]()
    deltas = [delta for piece in pieces for delta in stream.add(piece)] + list(stream.end())
    for delta in deltas:
        said += delta.get("content") or ""
        for call in delta.get("tool_calls", ()):
            one = found.setdefault(call["index"], ["", ""])
            one[0] += call["function"].get("name", "")
            one[1] += call["function"]["arguments"]
    return said, [(name, arguments) for name, arguments in found.values()]


@given(st.data())
def test_a_growing_text_tells_the_same_calls_however_it_is_cut(data: st.DataObject) -> None:
    mode, text, said, found = data.draw(st.sampled_from(TEXTS))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]

    told, calls_told = gathered(CallStream(calls(mode)), pieces)

    assert told.strip() == (said or "")
    assert calls_told == found


def test_the_arguments_of_one_function_are_told_as_they_come() -> None:
    stream = CallStream(calls(BY_NAME))

    first, second = (list(stream.add(piece)) for piece in ('{"colour": ', '"red"}'))

    assert first == [{"tool_calls": [{"index": 0, "function": {"arguments": '{"colour": ', "name": "shape"}}]}]
    assert second == [{"tool_calls": [{"index": 0, "function": {"arguments": '"red"}'}}]}]


CALL = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
HISTORY = [
    {"role": "user", "content": "What is it?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "42"}]},
    {"role": "tool", "tool_call_id": "c2", "content": "43"},
    {"role": "user", "content": "And?"},
]


def conversation(**more: Any) -> list[dict[str, Any]]:
    request = job(messages=HISTORY, **more)
    return [
        {"role": message.role, "content": [part.model_dump() for part in message.parts], **message.calls}
        for message in request.messages
    ]


def test_a_template_that_knows_tools_writes_them_itself() -> None:
    template = (
        "{% for tool in tools %}T {{ tool | tojson }}\n{% endfor %}{% for m in messages %}{{ m.role }}"
        "{% for call in m.tool_calls or [] %} {{ call.function.arguments | tojson }}{% endfor %}\n{% endfor %}"
    )
    assert knows_tools(template)

    messages = arrange(conversation(tools=[CLOCK]), [CLOCK], template)
    text = Environment(autoescape=False).from_string(template).render(messages=messages, tools=[CLOCK])

    assert text.splitlines()[0].startswith('T {"function": {"name": "clock"}')
    assert text.splitlines()[1:] == ["user", "assistant {}", "tool", "tool", "user"]


def test_for_others_tools_calls_and_results_are_written_out() -> None:
    template = (ROOT / "demo/model/chat_template.jinja").read_text()
    assert not knows_tools(template)

    messages = arrange(conversation(tools=[SHAPE]), [SHAPE], template)
    text = Environment(autoescape=False).from_string(template).render(messages=messages)

    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert json.dumps(SHAPE) in text
    assert '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>' in text
    assert text.index("<tool_response>\n42\n</tool_response>") < text.index("<tool_response>\n43\n</tool_response>")
    assert text.index("43") < text.index("And?")
    assert "<tools>" not in str(arrange(conversation(), [], template))


def test_a_system_message_is_kept_before_the_tools() -> None:
    system = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}

    (first, *_) = arrange([system, *conversation()], [CLOCK], "no tools here")

    assert first["content"][0] == system["content"][0]
    assert "clock" in first["content"][1]["text"]
    assert len(system["content"]) == 1
