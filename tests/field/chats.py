"""Requests as clients and agents write them: forms of parts, sampling, tools, forms of text, bodies in odd dress."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from typing import Any

from demo.scenes import scene
from tests.field.pictures import SCENES
from tests.field.table import WORDS, Answer, Row, Service, data_url, says

FAMILY = "chats"
Ask = Callable[[str, Service], Answer]
TEXT = {"type": "text", "text": WORDS["image"]}
SCHEMA = {"type": "object", "properties": {"colour": {"enum": ["red", "green", "blue"]}}, "required": ["colour"]}
TOOL = {"type": "function", "function": {"name": "shape", "description": "A shape.", "parameters": SCHEMA}}
CALL = {"id": "c1", "type": "function", "function": {"name": "shape", "arguments": "{}"}}


def _base64(url: str) -> str:
    return url.partition(",")[2]


#: What stands for a picture in a message, by who writes it so.
FORMS: dict[str, Callable[[str], list[Any]]] = {
    "image_url": lambda url: [{"type": "image_url", "image_url": {"url": url}}, TEXT],
    "image_url, detail": lambda url: [{"type": "image_url", "image_url": {"url": url, "detail": "high"}}, TEXT],
    "image_url, empty detail": lambda url: [{"type": "image_url", "image_url": {"url": url, "detail": ""}}, TEXT],
    "image_url as a text": lambda url: [{"type": "image_url", "image_url": url}, TEXT],
    "no type": lambda url: [{"image_url": {"url": url}}, TEXT],
    "input_image": lambda url: [{"type": "input_image", "image_url": url}, {"type": "input_text", "text": TEXT["text"]}],
    "a text among parts": lambda url: [{"type": "image_url", "image_url": url}, TEXT["text"]],
    "Qwen's image": lambda url: [{"type": "image", "image": url}, TEXT],
    "Qwen's image, no type": lambda url: [{"image": url}, {"text": TEXT["text"]}],
    "Qwen's limits": lambda url: [{"type": "image", "image": url, "min_pixels": 50176, "max_pixels": 200704}, TEXT],
    "LangChain's base64": lambda url: [
        {"type": "image", "source_type": "base64", "data": _base64(url), "mime_type": "image/png"},
        TEXT,
    ],
    "LangChain's address": lambda url: [{"type": "image", "source_type": "url", "url": url}, TEXT],
    "LangChain 1's base64": lambda url: [{"type": "image", "base64": _base64(url), "mime_type": "image/png"}, TEXT],
    "Anthropic's source": lambda url: [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": _base64(url)}},
        TEXT,
    ],
    "a file": lambda url: [{"type": "file", "file": {"file_data": url, "filename": "a.png"}}, TEXT],
    "an input_file": lambda url: [{"type": "input_file", "file_data": url, "filename": "a.png"}, TEXT],
    "text first": lambda url: [TEXT, {"type": "image_url", "image_url": {"url": url}}],
    "for a cache": lambda url: [
        {"type": "image_url", "image_url": {"url": url}, "cache_control": {"type": "ephemeral"}},
        TEXT | {"cache_control": {"type": "ephemeral"}},
    ],
}
#: Fields that leave the answer as it is.
HARMLESS: dict[str, dict[str, Any]] = {
    "the model card's sampling": {"top_k": 20, "top_p": 0.8, "temperature": 0.01, "presence_penalty": 0.1},
    "top_k": {"top_k": 1},
    "min_p": {"min_p": 0.05},
    "frequency_penalty": {"frequency_penalty": 0.1},
    "stop_token_ids": {"stop_token_ids": [1]},
    "stop as a text": {"stop": "。。。"},
    "no max_tokens": {"max_tokens": None},
    "max_completion_tokens": {"max_tokens": None, "max_completion_tokens": 60},
    "seed": {"seed": 7},
    "n: 1, logprobs: false": {"n": 1, "logprobs": False},
    "user, store, service_tier": {"user": "x", "store": False, "service_tier": "auto"},
    "no thinking": {"chat_template_kwargs": {"enable_thinking": False}},
    "response_format: text": {"response_format": {"type": "text"}},
    "no tools": {"tools": []},
    "tools, none": {"tools": [TOOL], "tool_choice": "none"},
    "tools, auto": {"tools": [TOOL]},
    "pixels": {"mm_processor_kwargs": {"max_pixels": 401_408}},
    "pixels by size": {"mm_processor_kwargs": {"size": {"shortest_edge": 50_176, "longest_edge": 401_408}}},
    "repetition_detection": {"repetition_detection": True},
}
#: What the text has to be, and the form that it is then of.
HELD: dict[str, tuple[dict[str, Any], str]] = {
    "guided_json": ({"guided_json": SCHEMA}, r'\{"colour":"(red|green|blue)"\}'),
    "guided_choice": ({"guided_choice": ["yes", "no"]}, "yes|no"),
    "guided_regex": ({"guided_regex": "[ab]{3}"}, "[ab]{3}"),
    "structured_outputs": ({"structured_outputs": {"choice": ["红", "蓝"]}}, "红|蓝"),
    "json_schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}},
        r'\{"colour":"(red|green|blue)"\}',
    ),
    "multipleOf": ({"guided_json": {"type": "integer", "multipleOf": 7, "minimum": 7, "maximum": 70}}, "7|[1-6][0-9]|70"),
}
#: What is refused, and a word of the reason.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "n: 2, streamed": ({"n": 2, "stream": True}, "n"),
}
#: Ways to dress a body, as headers and what is done to it.
DRESSES: dict[str, tuple[dict[str, str], Callable[[bytes], bytes]]] = {
    "no content type": ({}, bytes),
    "curl -d": ({"content-type": "application/x-www-form-urlencoded"}, bytes),
    "a charset": ({"content-type": "application/json; charset=utf-8"}, bytes),
    "gzip": ({"content-type": "application/json", "content-encoding": "gzip"}, gzip.compress),
    "a byte order mark": ({"content-type": "application/json"}, lambda body: b"\xef\xbb\xbf" + body),
}


def rows() -> Iterator[Row]:
    """Give the rows of requests."""
    scenes = cycle(SCENES)

    def row(
        name: str, ask: Callable[[str, Service], Answer], judge: Callable[[Answer], str] | None = None, refusal: str = ""
    ) -> Row:
        drawn = scene(next(scenes))
        url = data_url(drawn.png(), "image/png")
        return Row(FAMILY, name, partial(ask, url), judge or says(drawn.truth), refusal)

    for name, form in FORMS.items():
        yield row(f"chat: {name}", partial(_chat, form, {}))
        yield row(f"job: {name}", partial(_job, form))
        yield row(f"response: {name}", partial(_response, form))
    plain = FORMS["image_url"]
    for name, more in HARMLESS.items():
        yield row(name, partial(_chat, plain, more))
    for name, (more, form) in HELD.items():
        yield row(name, partial(_chat, plain, more), partial(_is_of, form))
    for name, (more, word) in REFUSED.items():
        yield row(name, partial(_chat, plain, more), lambda _: "", word)
    for name, choice in {"a call by name": {"type": "function", "function": {"name": "shape"}}, "a call": "required"}.items():
        more = {"tools": [TOOL], "tool_choice": choice, "parallel_tool_calls": False}
        yield row(name, partial(_call, more), lambda answer: "" if answer.text in {"red", "green", "blue"} else "no call")
    yield row("a history with a call", _history)
    for name, (headers, dress) in DRESSES.items():
        yield row(f"body: {name}", partial(_dressed, headers, dress))


def _body(content: list[Any], more: dict[str, Any]) -> dict[str, Any]:
    body = {"model": "qwen-vl", "messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 60} | more
    return {name: value for name, value in body.items() if value is not None}


def _chat(form: Callable[[str], list[Any]], more: dict[str, Any], url: str, service: Service) -> Answer:
    return service.asked(service.post("/v1/chat/completions", _body(form(url), more)))


def _job(form: Callable[[str], list[Any]], url: str, service: Service) -> Answer:
    return service.submit([{"role": "user", "content": form(url)}])


def _response(form: Callable[[str], list[Any]], url: str, service: Service) -> Answer:
    return service.respond([{"role": "user", "content": form(url)}])


def _call(more: dict[str, Any], url: str, service: Service) -> Answer:
    def colour(found: dict[str, Any]) -> str:
        (call,) = found["choices"][0]["message"]["tool_calls"]
        return str(json.loads(call["function"]["arguments"])["colour"])

    return service.asked(service.post("/v1/chat/completions", _body(FORMS["image_url"](url), more)), colour)


def _history(url: str, service: Service) -> Answer:
    turn = {"role": "user", "content": FORMS["image_url"](url)}
    calls = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    messages = [calls, {"role": "tool", "tool_call_id": "c1", "content": "42"}, turn]
    return service.asked(service.post("/v1/chat/completions", _body([], {"messages": messages})))


def _dressed(headers: dict[str, str], dress: Callable[[bytes], bytes], url: str, service: Service) -> Answer:
    body = json.dumps(_body(FORMS["image_url"](url), {})).encode()
    return service.asked(service.send("/v1/chat/completions", dress(body), headers))


def _is_of(form: str, answer: Answer) -> str:
    return "" if re.fullmatch(form, answer.text) else f"not of the form {form}"
