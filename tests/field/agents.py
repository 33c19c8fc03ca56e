"""More of what clients, editors and agents write: parts, fields of servers that people come from, tools and their histories."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from typing import Any

from demo.scenes import scene
from tests.field.pictures import SCENES
from tests.field.table import WORDS, Answer, Row, Service, data_url, says

FAMILY = "agents"
TEXT = {"type": "text", "text": WORDS["image"]}
COLOUR = {"type": "object", "properties": {"colour": {"enum": ["red", "green", "blue"]}}, "required": ["colour"]}
FLAT = {"name": "shape", "description": "A shape.", "parameters": COLOUR}
SHAPE = {"type": "function", "function": FLAT}
BY_NAME = {"type": "function", "function": {"name": "shape"}}


def _data(url: str) -> str:
    return url.partition(",")[2]


def _look(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


#: What stands for a picture, by who writes it so.
PARTS: dict[str, Callable[[str], Any]] = {
    "detail of null": lambda url: {"type": "image_url", "image_url": {"url": url, "detail": None}},
    "input_image, an object": lambda url: {"type": "input_image", "image_url": {"url": url}},
    "input_image, detail": lambda url: {"type": "input_image", "image_url": url, "detail": "auto"},
    "input_image, fields of null": lambda url: {"type": "input_image", "image_url": url, "file_id": None, "detail": None},
    "transformers' url": lambda url: {"type": "image", "url": url},
    "transformers' base64": lambda url: {"type": "image", "base64": _data(url)},
    "Anthropic's url": lambda url: {"type": "image", "source": {"type": "url", "url": url}},
    "MCP's data": lambda url: {"type": "image", "data": _data(url), "mimeType": "image/png"},
    "LiteLLM's format": lambda url: {"type": "image_url", "image_url": {"url": url, "format": "image/png"}},
    "Vercel's data": lambda url: {"type": "file", "data": url, "mediaType": "image/png"},
    "Vercel's url": lambda url: {"type": "file", "url": url, "mediaType": "image/png"},
    "LangChain's id": lambda url: {
        "type": "image",
        "source_type": "base64",
        "data": _data(url),
        "mime_type": "image/png",
        "id": "x",
    },
    "an address of its own": lambda url: {"type": "image_url", "url": url},
    "vLLM's uuid": lambda url: _look(url) | {"uuid": "a1"},
    "qwen-vl-utils' size": lambda url: {"type": "image", "image": url, "resized_height": 224, "resized_width": 280},
    "an image of image_url's form": lambda url: {"type": "image", "image_url": {"url": url}},
    "image_url of Qwen's form": lambda url: {"type": "image_url", "image": url},
    "min_pixels in it": lambda url: {"type": "image_url", "image_url": {"url": url, "min_pixels": 50176}},
    "another media type": lambda url: {"type": "image_url", "image_url": {"url": url.replace("image/png", "image/jpg")}},
    "octets": lambda url: {"type": "image_url", "image_url": {"url": url.replace("image/png", "application/octet-stream")}},
}
#: Fields that leave the answer as it is.
FIELDS: dict[str, dict[str, Any]] = {
    "LM Studio's max_tokens": {"max_tokens": -1},
    "SillyTavern's seed": {"seed": -1},
    "numbers as texts": {"temperature": "0", "top_p": "0.9"},
    "temperature of 0.0, whole top_k": {"temperature": 0.0, "top_k": 1.0},
    "top_k of -1": {"top_k": -1},
    "no penalties": {"frequency_penalty": 0, "presence_penalty": 0.0, "repetition_penalty": 1},
    "stop of nothing": {"stop": []},
    "stop of null": {"stop": None, "n": None, "logit_bias": None, "user": None, "tools": None, "tool_choice": None},
    "logprobs of null": {"logprobs": None, "top_logprobs": None},
    "logprobs: false, 0": {"logprobs": False, "top_logprobs": 0},
    "an empty logit_bias": {"logit_bias": {}},
    "best_of 1": {"best_of": 1, "use_beam_search": False},
    "stream: false": {"stream": False, "stream_options": None},
    "vLLM's defaults": {"skip_special_tokens": True, "ignore_eos": False, "min_tokens": 0, "add_generation_prompt": True},
    "a request's id": {"request_id": "x-1", "priority": 0},
    "OpenAI's cache": {"prompt_cache_key": "k", "safety_identifier": "u"},
    "metadata": {"metadata": {"trace": "1"}, "store": False},
    "Ollama's think": {"think": False},
    "thinking disabled": {"thinking": {"type": "disabled"}},
    "Qwen's enable_thinking": {"enable_thinking": False},
    "no reasoning": {"reasoning_effort": "none"},
    "tools of null parameters": {"tools": [{"type": "function", "function": {"name": "f", "parameters": None}}]},
    "tools, none as an object": {"tools": [SHAPE], "tool_choice": {"type": "none"}},
    "tools, none, parallel": {"tools": [SHAPE], "tool_choice": "none", "parallel_tool_calls": True},
    "auto without tools": {"tool_choice": "auto"},
    "none without tools": {"tool_choice": "none", "tools": []},
    "a form of null": {"response_format": None, "guided_json": None},
    "text alone": {"modalities": ["text"]},
    "an empty mm_processor_kwargs": {"mm_processor_kwargs": {}, "media_io_kwargs": {}},
}


def _tool(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", **parameters}}}


#: Tools whose call has to be valid, as pydantic, zod and people write their schemas.
TOOLS: dict[str, dict[str, Any]] = {
    "a response's form": {"tools": [{"type": "function", **FLAT}], "tool_choice": {"type": "function", "name": "shape"}},
    "strict": {"tools": [{"type": "function", "function": FLAT | {"strict": True}}], "tool_choice": BY_NAME},
    "$schema and title": {
        "tools": [_tool("shape", COLOUR | {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "S"})]
    },
    "pydantic's $defs": {
        "tools": [
            _tool(
                "shape",
                {
                    "properties": {"colour": {"$ref": "#/$defs/C"}},
                    "required": ["colour"],
                    "$defs": {"C": {"enum": ["red", "blue"], "title": "C", "type": "string"}},
                },
            )
        ]
    },
    "zod's definitions": {
        "tools": [
            _tool(
                "shape",
                {
                    "properties": {"colour": {"$ref": "#/definitions/C"}},
                    "required": ["colour"],
                    "definitions": {"C": {"enum": ["red", "blue"]}},
                },
            )
        ]
    },
    "a reference to a property": {
        "tools": [
            _tool(
                "shape",
                {
                    "properties": {"colour": {"enum": ["red"]}, "other": {"$ref": "#/properties/colour"}},
                    "required": ["colour", "other"],
                },
            )
        ]
    },
    "a description and a default": {
        "tools": [
            _tool(
                "shape",
                {
                    "properties": {"colour": {"enum": ["red", "blue"], "description": "颜色", "default": "red"}},
                    "required": ["colour"],
                },
            )
        ]
    },
    "no more properties": {"tools": [_tool("shape", COLOUR | {"additionalProperties": False})]},
    "a list of one": {
        "tools": [
            _tool(
                "shape",
                {
                    "properties": {
                        "colour": {"enum": ["red"]},
                        "n": {
                            "type": "array",
                            "items": {"type": "integer", "minimum": 0, "maximum": 9},
                            "minItems": 1,
                            "maxItems": 2,
                        },
                    },
                    "required": ["colour", "n"],
                },
            )
        ]
    },
    "one of two kinds": {
        "tools": [
            _tool(
                "shape", {"properties": {"colour": {"anyOf": [{"enum": ["red"]}, {"enum": ["blue"]}]}}, "required": ["colour"]}
            )
        ]
    },
    "a name in Chinese": {"tools": [_tool("形状", COLOUR)]},
}
CALL = {"id": "c1", "type": "function", "function": {"name": "shape", "arguments": '{"colour": "red"}'}}
#: Turns before the one that asks.
HISTORIES: dict[str, list[dict[str, Any]]] = {
    "arguments as an object": [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [CALL | {"function": {"name": "shape", "arguments": {"colour": "red"}}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "ok"},
    ],
    "no arguments": [
        {"role": "assistant", "tool_calls": [CALL | {"function": {"name": "shape", "arguments": ""}}]},
        {"role": "tool", "tool_call_id": "c1", "content": ""},
    ],
    "arguments that are no JSON": [
        {"role": "assistant", "tool_calls": [CALL | {"function": {"name": "shape", "arguments": "{red"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "bad"},
    ],
    "a call with its index": [
        {"role": "assistant", "content": None, "tool_calls": [CALL | {"index": 0}]},
        {"role": "tool", "tool_call_id": "c1", "name": "shape", "content": "42"},
    ],
    "two calls": [
        {"role": "assistant", "content": None, "tool_calls": [CALL, CALL | {"id": "c2"}]},
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "tool", "tool_call_id": "c2", "content": "2"},
    ],
    "a result of parts": [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "42"}]},
    ],
    "a result of null": [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": None},
    ],
    "an answer as it came": [
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": "Yes.",
            "refusal": None,
            "annotations": [],
            "audio": None,
            "function_call": None,
            "tool_calls": None,
            "reasoning_content": None,
        },
    ],
    "an answer in parts": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Yes.", "annotations": []}]},
    ],
    "a thought": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}],
    "the developer's word": [{"role": "developer", "content": "Be brief."}],
    "a system's parts": [
        {"role": "system", "content": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]}
    ],
    "an empty system": [{"role": "system", "content": ""}],
    "no calls": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes.", "tool_calls": []}],
    "a name": [{"role": "user", "content": "Hi", "name": "Ann"}, {"role": "assistant", "content": "Yes."}],
}


def rows() -> Iterator[Row]:
    """Give the rows."""
    scenes = cycle(SCENES)

    def row(name: str, ask: Callable[[str, Service], Answer], judge: Callable[[Answer], str] | None = None) -> Row:
        drawn = scene(next(scenes))
        return Row(FAMILY, name, partial(ask, data_url(drawn.png(), "image/png")), judge or says(drawn.truth))

    for name, form in PARTS.items():
        yield row(f"chat: {name}", partial(_chat, form, {}))
        yield row(f"job: {name}", partial(_job, form))
    for name, more in FIELDS.items():
        yield row(name, partial(_chat, _look, more))
        yield row(f"{name}, stream", partial(_stream, more))
    for name, more in TOOLS.items():
        for choice in [more["tool_choice"]] if "tool_choice" in more else [_named(more["tools"]), "required"]:
            how = "required" if choice == "required" else "by name"
            asked = {"parallel_tool_calls": False} | more | {"tool_choice": choice}
            yield row(f"tool: {name}, {how}", partial(_called, asked), _is_called)
    for name, turns in HISTORIES.items():
        yield row(f"history: {name}", partial(_after, turns))


def _named(tools: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": tools[0]["function"]["name"]}}


def _body(url: str, form: Callable[[str], Any], more: dict[str, Any]) -> dict[str, Any]:
    turn = {"role": "user", "content": [form(url), TEXT]}
    return {"model": "qwen-vl", "messages": [turn], "temperature": 0, "max_tokens": 200} | more


def _chat(form: Callable[[str], Any], more: dict[str, Any], url: str, service: Service) -> Answer:
    return service.asked(service.post("/v1/chat/completions", _body(url, form, more)))


def _stream(more: dict[str, Any], url: str, service: Service) -> Answer:
    answer = service.post("/v1/chat/completions", _body(url, _look, more | {"stream": True}))
    if answer.is_error:
        return service.asked(answer)
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    choices = [choice for line in lines for choice in json.loads(line).get("choices", ())]
    return Answer(200, "".join(choice["delta"].get("content") or "" for choice in choices), {})


def _job(form: Callable[[str], Any], url: str, service: Service) -> Answer:
    return service.submit([{"role": "user", "content": [form(url), TEXT]}])


def _after(turns: list[dict[str, Any]], url: str, service: Service) -> Answer:
    asking = {"role": "user", "content": [_look(url), TEXT]}
    return service.asked(service.post("/v1/chat/completions", _body(url, _look, {"messages": [*turns, asking]})))


def _called(more: dict[str, Any], url: str, service: Service) -> Answer:
    def colour(found: dict[str, Any]) -> str:
        (call,) = found["choices"][0]["message"]["tool_calls"]
        return str(json.loads(call["function"]["arguments"])["colour"])

    return service.asked(service.post("/v1/chat/completions", _body(url, _look, more)), colour)


def _is_called(answer: Answer) -> str:
    return "" if answer.text in {"red", "green", "blue"} else "no call"
