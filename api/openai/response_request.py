"""OpenAI's request for a response, as a chat's. Pure: no I/O.

What means nothing here may be left in; everything else that cannot be served is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, JsonValue, Tag, ValidationError

from api.content import CONTENT_FORM
from api.openai.answers import NamedFunction
from api.openai.chat_request import ChatRequest
from api.openai.response_items import AskedTools
from api.openai.tools import Function, Tool, ToolChoice
from api.validation import from_validation
from shared.errors import InvalidRequest, SightlineError, UnsupportedParameter
from shared.jobs import JobRequest

#: Fields without a meaning here, each with the values that ask for nothing; None: all values.
MEANINGLESS: dict[str, tuple[Any, ...] | None] = {
    "user": None,
    "safety_identifier": None,
    "prompt_cache_key": None,
    "prompt_cache_retention": None,
    "prompt_cache_options": None,
    "service_tier": None,
    "background_options": None,  # how long it may take at most
    "stream_options": None,  # only about obfuscation
    "max_tool_calls": None,  # of tools that the service has itself
    "include": ([], ["reasoning.encrypted_content"]),  # there is no reasoning to include
    "top_logprobs": (0,),
    "reasoning": ({}, {"effort": "none"}, {"effort": None}, {"summary": "auto"}, {"effort": None, "summary": None}),
    "truncation": ("disabled",),
}
_TURNS = "send the earlier turns in input"
_HINTS = {
    "previous_response_id": _TURNS,
    "conversation": _TURNS,
}


class _Lenient(BaseModel):
    """A part of OpenAI's contract: unknown fields mean nothing here."""

    model_config = ConfigDict(extra="allow", frozen=True)


def _raw(form: Any) -> BeforeValidator:
    """Leave a value for the chat to look at, so that errors name it as they do there; the API's description has its form."""
    return BeforeValidator(lambda raw: raw, json_schema_input_type=form)


_Content = Annotated[JsonValue, _raw(CONTENT_FORM)]


class _InputMessage(_Lenient):
    """A turn."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: _Content


class _InputCall(_Lenient):
    """A call that the model made in an earlier turn."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str = "{}"


class _InputResult(_Lenient):
    """What came of a call."""

    type: Literal["function_call_output"]
    call_id: str
    output: _Content


def _kind(raw: object) -> str:
    kind = raw.get("type") if isinstance(raw, dict) else getattr(raw, "type", None)
    return kind if isinstance(kind, str) and kind in {"function_call", "function_call_output"} else "message"


_AnyItem = Annotated[
    Annotated[_InputMessage, Tag("message")]
    | Annotated[_InputCall, Tag("function_call")]
    | Annotated[_InputResult, Tag("function_call_output")],
    Discriminator(_kind),
]


class _Format(_Lenient):
    """A json_schema's ``name``, ``schema``, ``strict`` and ``description`` stand beside its type."""

    type: Literal["text", "json_object", "json_schema"] = "text"


class _TextConfig(_Lenient):
    format: _Format = _Format()
    verbosity: Literal["medium"] | None = None


class FunctionTool(Function):
    """A function that may be called, as OpenAI's responses write it."""

    type: Literal["function"]


class ResponseRequest(_Lenient):
    """The body of POST /v1/responses."""

    model: str
    input: str | Annotated[list[_AnyItem], Field(min_length=1)]
    instructions: str | None = None
    background: bool | None = None
    stream: bool | None = None
    store: bool | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    text: _TextConfig | None = None
    metadata: dict[str, JsonValue] | None = None
    tools: Annotated[JsonValue, _raw(list[FunctionTool | Tool] | None)] = None
    tool_choice: Annotated[JsonValue, _raw(ToolChoice | NamedFunction | None)] = None
    parallel_tool_calls: bool | None = None

    @property
    def is_stored(self) -> bool:
        """Whether the response can be read after it was answered."""
        return self.store is not False

    @property
    def wanted_format(self) -> _Format:
        """What the text must be."""
        return self.text.format if self.text else _Format()


def to_chat(wanted: ResponseRequest) -> ChatRequest:
    """Translate the request for a response into that for a chat.

    Raises:
        UnsupportedParameter: something that cannot be served was asked for.
        BadMediaReference: a part names no file.
        InvalidRequest: a background response that is not to be stored.
    """
    _refuse_unsupported(wanted)
    if wanted.background and not wanted.is_stored:
        msg = "a response in the background has to be stored, since it is read later; leave store out"
        raise InvalidRequest(msg, param="store")
    chat = {
        "model": wanted.model,
        "messages": [turn for _, turn in _turns(wanted)],
        "max_tokens": wanted.max_output_tokens,
        "temperature": wanted.temperature,
        "top_p": wanted.top_p,
        "stream": wanted.stream,
        "metadata": wanted.metadata,
        "response_format": _format(wanted.wanted_format),
        "tools": wanted.tools,
        "tool_choice": wanted.tool_choice,
        "parallel_tool_calls": wanted.parallel_tool_calls,
    }
    try:
        return ChatRequest.model_validate({name: value for name, value in chat.items() if value is not None})
    except ValidationError as error:
        raise from_validation(list(error.errors())) from error


def echoed_by(wanted: ResponseRequest, job: JobRequest) -> dict[str, Any]:
    """Give what a response says of its request; it is kept with the job."""
    return {
        "model": wanted.model,
        "background": bool(wanted.background),
        "store": wanted.is_stored,
        "instructions": wanted.instructions,
        "max_output_tokens": wanted.max_output_tokens,
        "temperature": job.sampling.temperature,
        "top_p": job.sampling.top_p,
        "text": {"format": {"type": wanted.wanted_format.type, **_schema(wanted.wanted_format)}},
        **AskedTools.model_validate(wanted, from_attributes=True).echoed(),
    }


@contextmanager
def in_its_own_words(wanted: ResponseRequest) -> Iterator[None]:
    """Name the fields in errors as a response's request has them, and not as the chat that is made of it."""
    try:
        yield
    except SightlineError as error:
        if error.param:
            own, named = _own_path(error.param, wanted), f"{error.param}: "
            if error.message.startswith(named):
                error.message = f"{own}: {error.message.removeprefix(named)}"
            error.param = own
        raise


def _own_path(path: str, wanted: ResponseRequest) -> str:
    head, *rest = path.split(".")
    if head == "max_tokens":
        return "max_output_tokens"
    if head == "response_format":
        return ".".join(["text.format", *(part for part in rest if part != "json_schema")])
    if head in {"tools", "tool_choice"}:  # a function's fields stand beside its type
        return ".".join(part for part in (head, *rest) if part != "function")
    return _item_path(rest, wanted) if head == "messages" else path


def _item_path(rest: list[str], wanted: ResponseRequest) -> str:
    """Name an item of the input, or a place in it, by the way to it in the chat's messages."""
    if not rest or isinstance(wanted.input, str):
        return "instructions" if wanted.instructions and rest[:1] == ["0"] else "input"
    n, _ = _turns(wanted)[int(rest[0])]
    if n < 0:
        return "instructions"
    inner = [] if rest[1:2] == ["tool_calls"] else rest[1:]
    if inner and isinstance(wanted.input[n], _InputResult):
        inner[0] = "output"
    return ".".join(["input", str(n), *inner])


def _refuse_unsupported(wanted: ResponseRequest) -> None:
    for name, value in (wanted.model_extra or {}).items():
        harmless = MEANINGLESS.get(name, ())
        if value is not None and harmless is not None and value not in harmless:
            hint = _HINTS.get(name, "leave it out")
            raise UnsupportedParameter(f"this service does not support {name[:100]} here; {hint}", param=name[:100])


def _turns(wanted: ResponseRequest) -> list[tuple[int, dict[str, Any]]]:
    """Give the turns of the chat, each with the place of its first item; the instructions have -1.

    Calls are part of the turn of the message before them: chats have them so, and models have learnt it so.
    """
    turns: list[tuple[int, dict[str, Any]]] = []
    if wanted.instructions:
        turns.append((-1, {"role": "system", "content": wanted.instructions}))
    if isinstance(wanted.input, str):
        return [*turns, (0, {"role": "user", "content": wanted.input})]
    for n, item in enumerate(wanted.input):
        if isinstance(item, _InputMessage):
            turns.append((n, {"role": item.role, "content": item.content}))
        elif isinstance(item, _InputResult):
            turns.append((n, {"role": "tool", "tool_call_id": item.call_id, "content": item.output}))
        else:
            if not turns or turns[-1][1]["role"] != "assistant":
                turns.append((n, {"role": "assistant", "content": None}))
            call = {"id": item.call_id, "function": {"name": item.name, "arguments": item.arguments}}
            turns[-1][1].setdefault("tool_calls", []).append(call)
    return turns


def _format(wanted: _Format) -> dict[str, Any]:
    return {"type": wanted.type} | ({"json_schema": _schema(wanted)} if wanted.type == "json_schema" else {})


def _schema(wanted: _Format) -> dict[str, Any]:
    """Give what stands beside the type of a json_schema; beside another type it means nothing."""
    return (wanted.model_extra or {}) if wanted.type == "json_schema" else {}
