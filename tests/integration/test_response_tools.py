"""Tools of responses through the published openai package: calls as items, whole and streamed, and a history of some."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseFunctionToolCall, ResponseOutputMessage

from tests.integration.conftest import Worker
from tests.media import data_url, picture

SCHEMA = {"type": "object", "properties": {"colour": {"type": "string"}}, "required": ["colour"]}
TOOLS: Any = [
    {"type": "function", "name": "shape", "description": "形状", "parameters": SCHEMA, "strict": True},
    {"type": "function", "name": "size", "description": None, "parameters": None, "strict": None},
]
ARGUMENTS = '{"colour": "红"}'
CALLS = f'<tool_call>{{"name": "shape", "arguments": {ARGUMENTS}}}</tool_call> <tool_call>{{"name": "size"}}</tool_call>'
REQUIRED = '[{"name": "shape", "arguments": {"colour": "红"}}, {"name": "size", "arguments": {}}]'
NAMED: Any = {"type": "function", "name": "shape"}
#: What the double is told to say, which call may be in it, and what has to come: a text, and the calls.
TOLD: dict[str, tuple[str, Any, str, list[tuple[str, str]]]] = {
    "chosen": (f"Look: {CALLS}", "auto", "Look:", [("shape", ARGUMENTS), ("size", "{}")]),
    "chosen, no text": (CALLS, "auto", "", [("shape", ARGUMENTS), ("size", "{}")]),
    "text behind": (f"Look: {CALLS} so.", "auto", "Look:   so.", [("shape", ARGUMENTS), ("size", "{}")]),
    "no call": ("Look: <tool_ nothing", "auto", "Look: <tool_ nothing", []),
    "required": (REQUIRED, "required", "", [("shape", ARGUMENTS), ("size", "{}")]),
    "named": (ARGUMENTS, NAMED, "", [("shape", ARGUMENTS)]),
    "none": (CALLS, "none", CALLS, []),
}


def calls_of(answer: Response) -> list[ResponseFunctionToolCall]:
    return [item for item in answer.output if isinstance(item, ResponseFunctionToolCall)]


def read(answer: Response) -> tuple[str, list[tuple[str, str]]]:
    return answer.output_text, [(call.name, call.arguments) for call in calls_of(answer)]


@pytest.mark.parametrize("name", TOLD)
async def test_calls_are_items_of_their_own(name: str, client: AsyncOpenAI, worker: Worker) -> None:
    said, choice, text, calls = TOLD[name]

    answer = await client.responses.create(model="qwen-vl", input=said, tools=TOOLS, tool_choice=choice)

    assert read(answer) == (text, calls)
    assert len(answer.output) == len(calls) + bool(text)
    assert len({call.call_id for call in calls_of(answer)} | {item.id for item in answer.output}) == 2 * len(calls) + bool(text)
    assert [tool.model_dump(exclude_unset=True) for tool in answer.tools] == TOOLS
    assert answer.model_dump(exclude_unset=True)["tool_choice"] == choice
    Response.model_validate(answer.model_dump(), strict=True)
    assert await client.responses.retrieve(answer.id) == answer


@pytest.mark.parametrize("name", TOLD)
@pytest.mark.parametrize("how", ["", " !speak 0.01"])
async def test_a_stream_tells_the_same_items(how: str, name: str, client: AsyncOpenAI, worker: Worker) -> None:
    said, choice, *_ = TOLD[name]
    asked: Any = {"model": "qwen-vl", "input": said + how, "tools": TOOLS, "tool_choice": choice}

    events = [event async for event in await client.responses.create(**asked, stream=True)]

    last: Any = events[-1]
    assert last.type == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    for event in events:
        type(event).model_validate(event.model_dump(), strict=True)
    items: list[Any] = [event.item for event in events if event.type == "response.output_item.done"]
    assert items == last.response.output
    assert [event.item.id for event in events if event.type == "response.output_item.added"] == [item.id for item in items]
    for index, item in enumerate(items):
        pieces = "".join(
            event.delta
            for event in events
            if event.type in {"response.output_text.delta", "response.function_call_arguments.delta"}
            and event.output_index == index
            and event.item_id == item.id
        )
        assert pieces == (item.content[0].text if isinstance(item, ResponseOutputMessage) else item.arguments)
    assert read(last.response) == read(await client.responses.retrieve(last.response.id))


async def test_the_sdk_gathers_a_stream_with_calls(client: AsyncOpenAI, worker: Worker) -> None:
    async with client.responses.stream(model="qwen-vl", input=f"Look: {CALLS}", tools=TOOLS) as stream:
        answer = await stream.get_final_response()

    assert (answer.output_text, [call.name for call in calls_of(answer)]) == ("Look:", ["shape", "size"])  # type: ignore[arg-type]


async def test_calls_and_their_results_reach_the_engine_as_a_chats_do(client: AsyncOpenAI, worker: Worker) -> None:
    seen, generate = [], worker.engine.generate

    async def watched(conversation: Any, sampling: Any, **rest: Any) -> Any:
        seen.append((conversation, rest["tools"]))
        return await generate(conversation, sampling, **rest)

    worker.engine.generate = watched  # type: ignore[method-assign]
    first = await client.responses.create(model="qwen-vl", input=f"Look: {CALLS}", tools=TOOLS)
    image = {"type": "input_image", "image_url": data_url(picture()), "detail": "auto"}
    calls = calls_of(first)
    history: Any = [
        {"role": "user", "content": [image, {"type": "input_text", "text": "What is it?"}]},
        *(item.model_dump(exclude_unset=True) for item in first.output),
        {"type": "function_call_output", "call_id": calls[0].call_id, "output": "圆"},
        {"type": "function_call_output", "call_id": calls[1].call_id, "output": [{"type": "input_text", "text": "5"}]},
    ]

    await client.responses.create(model="qwen-vl", input=history, tools=TOOLS)

    conversation, tools = seen[-1]
    assert [turn["role"] for turn in conversation] == ["user", "assistant", "tool", "tool"]
    assert [call["id"] for call in conversation[1]["tool_calls"]] == [call.call_id for call in calls]
    assert json.loads(conversation[1]["tool_calls"][0]["function"]["arguments"]) == {"colour": "红"}
    assert [(turn["tool_call_id"], turn["content"][0]["text"]) for turn in conversation[2:]] == [
        (calls[0].call_id, "圆"),
        (calls[1].call_id, "5"),
    ]
    assert [tool["function"]["name"] for tool in tools] == ["shape", "size"]
