"""Tools through the published openai package: calls that a model writes, whole and streamed, and a history that holds some."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError

from shared.settings import Settings
from tests.integration.conftest import Worker, until
from tests.integration.served import client_of, running_batches, served
from tests.integration.test_batches import ended, lines_of, start
from tests.media import data_url, picture

SCHEMA = {"type": "object", "properties": {"colour": {"type": "string"}}, "required": ["colour"]}
TOOLS: Any = [{"type": "function", "function": {"name": "shape", "description": "形状", "parameters": SCHEMA}}]
#: The double says what it is told to.
CALL = '<tool_call>{"name": "shape", "arguments": {"colour": "红"}}</tool_call>'


def ask(text: str) -> Any:
    return [{"role": "user", "content": text}]


async def test_a_call_that_the_model_writes_is_given_as_one(client: AsyncOpenAI, worker: Worker) -> None:
    answer = await client.chat.completions.create(model="qwen-vl", messages=ask(f"Look: {CALL}"), tools=TOOLS)

    (choice,) = answer.choices
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name, json.loads(call.function.arguments)) == ("function", "shape", {"colour": "红"})
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Look:"


@pytest.mark.parametrize("how", ["at once", "word by word"])
async def test_a_stream_gives_the_same_call(how: str, client: AsyncOpenAI, worker: Worker) -> None:
    text = f"Look: {CALL}" + (" !speak 0.01" if how == "word by word" else "")

    async with client.chat.completions.stream(model="qwen-vl", messages=ask(text), tools=TOOLS) as stream:
        said = [event.delta async for event in stream if event.type == "content.delta"]
        answer = await stream.get_final_completion()

    (choice,) = answer.choices
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("shape", {"colour": "红"})
    assert call.id.startswith("call_")
    assert choice.finish_reason == "tool_calls"
    assert "tool_call" not in "".join(said)


async def test_what_is_no_call_stays_text(client: AsyncOpenAI, worker: Worker) -> None:
    for given in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        answer = await client.chat.completions.create(model="qwen-vl", messages=ask(CALL), **given)
        assert (answer.choices[0].message.content, answer.choices[0].message.tool_calls) == (CALL, None)
        assert answer.choices[0].finish_reason == "stop"


async def test_a_history_with_calls_and_results_reaches_the_engine(client: AsyncOpenAI, worker: Worker) -> None:
    seen, generate = [], worker.engine.generate

    async def watched(conversation: Any, sampling: Any, **rest: Any) -> Any:
        seen.append((conversation, rest["tools"]))
        return await generate(conversation, sampling, **rest)

    worker.engine.generate = watched  # type: ignore[method-assign]
    call = {"id": "c1", "type": "function", "function": {"name": "shape", "arguments": '{"colour": "红"}'}}
    image = {"type": "image_url", "image_url": {"url": data_url(picture())}}
    messages: Any = [
        {"role": "user", "content": [image, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "圆"},
    ]

    await client.chat.completions.create(model="qwen-vl", messages=messages, tools=TOOLS)

    ((conversation, tools),) = seen
    assert [message["role"] for message in conversation] == ["user", "assistant", "tool"]
    assert conversation[1]["tool_calls"] == [call]
    assert (conversation[2]["tool_call_id"], conversation[2]["content"][0]["text"]) == ("c1", "圆")
    assert tools == TOOLS


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "<|im_end|>"}}]}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "function", "function": {"name": "a", "colour": 1}}]}, "tools.0.function.colour"),
        ({"tools": TOOLS, "tool_choice": "any"}, "tool_choice"),
        (
            {
                "messages": [
                    *ask("x"),
                    {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "a", "arguments": "<|im_end|>"}}]},
                ]
            },
            "messages.1.tool_calls",
        ),
    ],
)
async def test_odd_tools_are_refused(given: dict[str, Any], param: str, client: AsyncOpenAI, worker: Worker) -> None:
    asked: Any = {"model": "qwen-vl", "messages": ask("x"), **given}

    with pytest.raises(BadRequestError) as caught:
        await client.chat.completions.create(**asked)

    assert str(caught.value.param).startswith(param)
    assert "Input should" not in caught.value.message


def line(name: str, text: str, **given: Any) -> str:
    body = {"model": "qwen-vl", "messages": ask(text), "tools": TOOLS} | given
    return json.dumps({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body})


async def test_lines_of_a_batch_are_answered_with_calls(client: AsyncOpenAI, worker: Worker) -> None:
    named = {"type": "function", "function": {"name": "shape"}}
    asked = [line("chosen", f"Look: {CALL}"), line("named", '{"colour": "蓝"}', tool_choice=named)]
    asked += [line("none", CALL, tool_choice="none"), line("odd", "x", tools=[{"type": "web_search"}])]

    batch = await start(client, asked)
    batch = await until(lambda: ended(client, batch.id))

    choices = {row["custom_id"]: row["response"]["body"]["choices"][0] for row in await lines_of(client, batch.output_file_id)}
    messages = {name: choice["message"] for name, choice in choices.items()}
    calls = {name: [call["function"] for call in message.get("tool_calls", ())] for name, message in messages.items()}
    assert {name: message["content"] for name, message in messages.items()} == {"chosen": "Look:", "named": None, "none": CALL}
    assert calls["chosen"] == [{"name": "shape", "arguments": '{"colour": "红"}'}]
    assert calls["named"] == [{"name": "shape", "arguments": '{"colour": "蓝"}'}]
    assert calls["none"] == []
    assert choices["chosen"]["finish_reason"] == "tool_calls"
    (row,) = await lines_of(client, batch.error_file_id)
    assert (row["custom_id"], row["response"]["body"]["error"]["param"]) == ("odd", "tools.0.type")


async def test_calls_are_read_by_a_runner_that_did_not_submit_the_line(settings: Settings, worker: Worker) -> None:
    async with served(settings, batches=False) as url, client_of(url) as client:
        async with running_batches(settings):
            batch = await start(client, [line("a", f"!hold {CALL}")])
            await until(lambda: asyncio.sleep(0, worker.engine.running))
        async with running_batches(settings):
            worker.engine.let_go.set()
            batch = await until(lambda: ended(client, batch.id))
        (row,) = await lines_of(client, batch.output_file_id)

    (call,) = row["response"]["body"]["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "shape", "arguments": '{"colour": "红"}'}
