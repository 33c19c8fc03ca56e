"""Published Python clients, unmodified, against a running service: pictures, streams, structured text, tools. See README.md."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import instructor
import litellm
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from openai import OpenAI
from pydantic import BaseModel, Field

BASE = sys.argv[1].rstrip("/") + "/v1"
PICTURE = (Path(__file__).parent / "circle.png").read_bytes()
URL = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
WORDS, RIGHT = "Describe the picture.", "A large red circle in the centre."
PARTS: list[Any] = [{"type": "image_url", "image_url": {"url": URL}}, {"type": "text", "text": WORDS}]
TURNS: list[Any] = [{"role": "user", "content": PARTS}]


class Shape(BaseModel):
    """What is drawn."""

    colour: Literal["red", "green", "blue"]
    round: bool


class Shapes(BaseModel):
    """All that is drawn."""

    shapes: Annotated[list[Shape], Field(max_length=2)]


SHAPE = {"type": "function", "function": {"name": "Shape", "parameters": Shape.model_json_schema()}}
CALLED = {"type": "function", "function": {"name": "Shape"}}


def is_shape(arguments: str | dict[str, Any]) -> bool:
    """Say whether a call's arguments are those of the tool."""
    Shape.model_validate(json.loads(arguments) if isinstance(arguments, str) else arguments)
    return True


openai = OpenAI(base_url=BASE, api_key="EMPTY", max_retries=0)
ask: dict[str, Any] = {"model": "qwen-vl", "messages": TURNS, "temperature": 0, "max_tokens": 400}


def openai_stream() -> bool:
    chunks = openai.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == RIGHT


def openai_tools(choice: Any) -> bool:
    (call, *_) = openai.chat.completions.create(**ask, tools=[SHAPE], tool_choice=choice).choices[0].message.tool_calls or []
    return is_shape(call.function.arguments)


def openai_tools_stream(choice: Any) -> bool:
    # The demo model never ends a list by itself.
    with openai.chat.completions.stream(**ask, tools=[SHAPE], tool_choice=choice, parallel_tool_calls=False) as stream:
        (call, *_) = stream.get_final_completion().choices[0].message.tool_calls or []
    return is_shape(call.function.arguments)


def openai_parse() -> bool:
    return isinstance(openai.chat.completions.parse(**ask, response_format=Shape).choices[0].message.parsed, Shape)


def openai_result() -> bool:
    """Give a tool's result that is a picture, and ask on."""
    call = {"id": "c1", "type": "function", "function": {"name": "Shape", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": PARTS},
    ]
    answer = openai.chat.completions.create(**ask | {"messages": turns}, tools=[SHAPE], tool_choice="none")
    return bool(answer.choices[0].message.content) and answer.usage is not None and answer.usage.prompt_tokens > 100


def responses_input() -> list[Any]:
    return [{"role": "user", "content": [{"type": "input_image", "image_url": URL}, {"type": "input_text", "text": WORDS}]}]


def openai_responses() -> bool:
    return openai.responses.create(model="qwen-vl", input=responses_input(), temperature=0).output_text == RIGHT


def openai_responses_parse() -> bool:
    answer = openai.responses.parse(model="qwen-vl", input=responses_input(), text_format=Shape)
    return isinstance(answer.output_parsed, Shape)


langchain = ChatOpenAI(model="qwen-vl", base_url=BASE, api_key="EMPTY", temperature=0, max_retries=0)


def langchain_tools() -> bool:
    answer = langchain.bind_tools([Shape], tool_choice="Shape").invoke(TURNS)
    return is_shape(answer.tool_calls[0]["args"])


def langchain_any() -> bool:
    answer = langchain.bind_tools([Shape], tool_choice="any").invoke(TURNS)
    return is_shape(answer.tool_calls[0]["args"])


def langchain_turn() -> bool:
    call = {"name": "Shape", "args": {"colour": "red", "round": True}, "id": "c1", "type": "tool_call"}
    result = ToolMessage("42", tool_call_id="c1")
    turns = [HumanMessage("Look."), AIMessage("", tool_calls=[call]), result, HumanMessage(PARTS)]
    return langchain.invoke(turns).content == RIGHT


def langchain_blocks() -> bool:
    block = {"type": "image", "base64": base64.b64encode(PICTURE).decode(), "mime_type": "image/png"}
    return langchain.invoke([HumanMessage([block, {"type": "text", "text": WORDS}])]).content == RIGHT


lite: dict[str, Any] = ask | {"model": "openai/qwen-vl", "api_base": BASE, "api_key": "EMPTY"}


def lite_stream() -> bool:
    chunks = litellm.completion(**lite, stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == RIGHT


def lite_tools() -> bool:
    (call, *_) = litellm.completion(**lite, tools=[SHAPE], tool_choice=CALLED).choices[0].message.tool_calls
    return is_shape(call.function.arguments)


def lite_format() -> bool:
    return is_shape(litellm.completion(**lite, response_format=Shape).choices[0].message.content)


llama = OpenAILike(
    model="qwen-vl",
    api_base=BASE,
    api_key="EMPTY",
    temperature=0,
    max_retries=0,
    is_chat_model=True,
    is_function_calling_model=True,
)
blocks = [ChatMessage(role="user", blocks=[ImageBlock(image=PICTURE, image_mimetype="image/png"), TextBlock(text=WORDS)])]


def llama_stream() -> bool:
    return "".join(piece.delta or "" for piece in llama.stream_chat(blocks)) == RIGHT


def llama_tools() -> bool:
    tool = FunctionTool.from_defaults(fn=lambda colour: colour, name="paint", fn_schema=Shape, description="Paint.")
    answer = llama.chat_with_tools([tool], chat_history=blocks, tool_required=True)
    return is_shape(llama.get_tool_calls_from_response(answer)[0].tool_kwargs)


def llama_structured() -> bool:
    return isinstance(llama.as_structured_llm(Shape).chat(blocks).raw, Shape)


instructed = instructor.from_openai(openai)

TRIALS: dict[str, Callable[[], bool]] = {
    "openai: picture": lambda: openai.chat.completions.create(**ask).choices[0].message.content == RIGHT,
    "openai: stream": openai_stream,
    "openai: parse": openai_parse,
    "openai: tool by name": lambda: openai_tools(CALLED),
    "openai: tool required": lambda: openai_tools("required"),
    "openai: tool by name, stream": lambda: openai_tools_stream(CALLED),
    "openai: tool required, stream": lambda: openai_tools_stream("required"),
    "openai: a picture as a tool's result": openai_result,
    "openai: response": openai_responses,
    "openai: response, parse": openai_responses_parse,
    "openai: models": lambda: [model.id for model in openai.models.list()] == ["qwen-vl"],
    "LangChain: picture": lambda: langchain.invoke(TURNS).content == RIGHT,
    "LangChain: its own block": langchain_blocks,
    "LangChain: stream": lambda: "".join(piece.content for piece in langchain.stream(TURNS)) == RIGHT,
    "LangChain: batch": lambda: [answer.content for answer in langchain.batch([TURNS] * 3)] == [RIGHT] * 3,
    "LangChain: structured": lambda: isinstance(langchain.with_structured_output(Shape).invoke(TURNS), Shape),
    "LangChain: structured by a call": lambda: isinstance(
        langchain.with_structured_output(Shape, method="function_calling").invoke(TURNS), Shape
    ),
    "LangChain: tool by name": langchain_tools,
    "LangChain: any tool": langchain_any,
    "LangChain: a turn with a call": langchain_turn,
    "LiteLLM: picture": lambda: litellm.completion(**lite).choices[0].message.content == RIGHT,
    "LiteLLM: stream": lite_stream,
    "LiteLLM: structured": lite_format,
    "LiteLLM: tool by name": lite_tools,
    "LlamaIndex: picture": lambda: llama.chat(blocks).message.content == RIGHT,
    "LlamaIndex: stream": llama_stream,
    "LlamaIndex: structured": llama_structured,
    "LlamaIndex: tools": llama_tools,
    "instructor: its default mode": lambda: isinstance(
        instructed.chat.completions.create(**ask, response_model=Shape, max_retries=0), Shape
    ),
    "instructor: a list": lambda: isinstance(
        instructed.chat.completions.create(**ask, response_model=Shapes, max_retries=0), Shapes
    ),
}


def main() -> int:
    """Run all trials; gives the exit code."""
    n_wrong = 0
    for name, trial in TRIALS.items():
        try:
            why = "" if trial() else "another answer"
        except Exception as error:  # noqa: BLE001  # whatever a client raises is a wrong row
            why = f"{type(error).__name__}: {str(error)[:300]}"
        n_wrong += bool(why)
        print("wrong" if why else "right", name, why, sep="  ", flush=True)
    return 1 if n_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
