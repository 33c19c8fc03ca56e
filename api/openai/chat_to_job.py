"""A chat's request as a job's. Pure: no I/O.

A wish is served or refused by its name: what means nothing here stands in a table, and every other field that is not known is
refused, since an answer that passes it over is a wrong one.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import JsonValue, ValidationError

from api.json_body import read_json
from api.openai.chat_request import (
    ChatFormat,
    ChatRequest,
    MediaReading,
    PixelWishes,
    SizeWishes,
    StructuredOutputs,
    Turn,
    VideoReading,
    WrittenCall,
)
from api.validation import from_validation, nearest
from shared.errors import InvalidRequest, UnsupportedParameter
from shared.jobs import JobRequest
from shared.messages import CalledFunction, FilePart, ImagePart, Message, TextPart, ToolCall, VideoPart
from shared.sampling_params import Sampling

#: The openai package gives up after 600 s, so a chat that has not begun by then has nobody to answer to.
CHAT_START_DEADLINE_S = 600

#: What cannot be served, each with the values that ask for nothing.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "use_beam_search": (False,),
    "prompt_logprobs": (0,),
    "logit_bias": ({},),
    "min_tokens": (0,),
    "bad_words": ([],),
    "ignore_eos": (False,),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "add_special_tokens": (False,),
    "truncate_prompt_tokens": (-1,),
    "length_penalty": (1,),
    "chat_template_kwargs": ({}, {"enable_thinking": False}),
    "enable_thinking": (False,),
    "think": (False,),
    "thinking": ({"type": "disabled"},),
    "reasoning_effort": ("none",),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "guided_whitespace_pattern": (),
    "echo": (False,),
}
#: Means nothing here, whatever its value.
MEANINGLESS = frozenset(
    {
        *("user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "service_tier", "store", "priority"),
        *("request_id", "cache_salt", "spaces_between_special_tokens", "return_tokens_as_token_ids"),
        *("guided_decoding_backend", "return_token_ids"),
    }
)

#: What a message may have beside its fields: names, notes of whoever kept it, and what an answer had beside its text.
MEANINGLESS_IN_TURNS = frozenset(
    {
        *(
            "name",
            "id",
            "index",
            "type",
            "status",
            "model",
            "refusal",
            "annotations",
            "reasoning",
            "reasoning_content",
        ),
        *("reasoning_details", "cache_control", "metadata", "created", "created_at", "createdAt", "timestamp", "extra"),
        *("additional_kwargs", "response_metadata", "provider_specific_fields", "thinking_blocks"),
    }
)

#: Fields of a chat that are a job's under the same name.
_SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
    *("stop_token_ids", "seed", "n", "repetition_detection"),
)


def to_job(chat: ChatRequest, *, start_deadline_s: int, max_model_len: int) -> JobRequest:
    """Translate a chat into a job's request.

    Args:
        chat: as it came in.
        start_deadline_s: after which nobody wants an answer any more.
        max_model_len: tokens that the context holds.

    Raises:
        UnsupportedParameter: something that cannot be served was asked for.
        InvalidRequest: a value is out of its range.
    """
    _refuse_unsupported(chat)
    _refuse_as_vllm_does(chat, max_model_len)
    wanted = {name: getattr(chat, name) for name in _SAMPLING} | {
        "stop": [chat.stop] if isinstance(chat.stop, str) else chat.stop,
        "response_format": _only_form(chat),
        "logprobs": (chat.top_logprobs or 0) if chat.logprobs else None,
    }
    given = {name: value for name, value in wanted.items() if value is not None} | {"max_tokens": chat.most_tokens}
    if chat.seed == -1:  # how local servers write that there is none
        del given["seed"]
    try:
        sampling = Sampling.model_validate(given)
        wishes = _wishes(chat)
        return JobRequest(
            messages=[_message(f"messages.{n}", turn, wishes) for n, turn in enumerate(chat.messages)],
            tools=chat.calls.shown,
            model=chat.model,
            sampling=sampling,
            metadata=chat.metadata or {},
            start_deadline_s=start_deadline_s,
        )
    except ValidationError as error:
        raise from_validation(list(error.errors())) from error


def _refuse_unsupported(chat: ChatRequest) -> None:
    for name, value in (chat.model_extra or {}).items():
        if value is None or name in MEANINGLESS or value in UNSUPPORTED.get(name, ()):
            continue
        shown = name[:100]
        if name in UNSUPPORTED:
            hint = "; tools are its later form" if name in {"functions", "function_call"} else ""
            raise UnsupportedParameter(f"this service does not support {shown}; leave it out{hint}", param=shown)
        hint = nearest(name, ChatRequest.model_fields) or "; it is not passed over, leave it out"
        msg = f"a chat has no field {shown!a}{hint}"
        raise UnsupportedParameter(msg, param=shown)


def _refuse_as_vllm_does(chat: ChatRequest, max_model_len: int) -> None:
    if chat.include_usage and not chat.stream:
        msg = "stream_options go with stream; leave them out, or set stream to true"
        raise InvalidRequest(msg, param="stream_options")
    if chat.top_logprobs and not chat.logprobs:
        msg = "top_logprobs go with logprobs; set logprobs to true"
        raise InvalidRequest(msg, param="top_logprobs")
    for name, asked in (("n", chat.n not in {None, 1}), ("logprobs", chat.logprobs)):
        if asked and chat.stream:
            raise UnsupportedParameter(f"{name} cannot be streamed here; leave one of {name} and stream out", param=name)
    if chat.most_tokens is not None and chat.most_tokens > max_model_len:
        name = "max_tokens" if chat.max_completion_tokens is None else "max_completion_tokens"
        msg = f"{name} is {chat.most_tokens}, but text, media and answer together have room for {max_model_len} tokens"
        raise InvalidRequest(msg, param=name)


def _only_form(chat: ChatRequest) -> dict[str, Any] | None:
    """Give what the text must be, in whichever of the ways it is said.

    Raises:
        InvalidRequest: it is said in two ways.
    """
    own = chat.structured_outputs or StructuredOutputs()
    said = {
        "response_format": _format(chat.response_format),
        "tool_choice": chat.calls.response_format(),
        "structured_outputs": _structured(own.json_, own.json_object, own.choice, own.regex, own.grammar),
        "guided_json": _structured(chat.guided_json, chat.guided_json_object or None),
        "guided_choice": _structured(choice=chat.guided_choice),
        "guided_regex": _structured(regex=chat.guided_regex),
        "guided_grammar": _structured(grammar=chat.guided_grammar),
    }
    found = {name: form for name, form in said.items() if form is not None}
    if len(found) > 1:
        raise InvalidRequest(f"{' and '.join(found)} each say what the text must be; leave one out", param=list(found)[1])
    return next(iter(found.values()), None)


def _structured(
    schema: str | dict[str, JsonValue] | None = None,
    json_object: bool | None = None,  # noqa: FBT001  # one of five, of which the others are None
    choice: list[str] | None = None,
    regex: str | None = None,
    grammar: str | None = None,
) -> dict[str, Any] | None:
    if schema is not None:
        read = read_json(schema.encode()) if isinstance(schema, str) else schema
        return {"type": "json_schema", "json_schema": {"schema": read}}
    if json_object:
        return {"type": "json_object"}
    named = {"choice": choice, "regex": regex, "grammar": grammar}
    return next(({"type": name, name: value} for name, value in named.items() if value is not None), None)


def _format(wanted: ChatFormat | None) -> dict[str, Any] | None:
    if wanted is None or wanted.type == "text":
        return None
    for name in wanted.model_extra or ():
        msg = f"a response_format has no {name[:100]!a}; a schema stands in json_schema.schema"
        raise UnsupportedParameter(msg, param=f"response_format.{name[:100]}")
    if wanted.schema_ is not None:
        return {"type": "json_schema", "json_schema": {"schema": wanted.schema_}}
    return {"type": wanted.type} | ({"json_schema": wanted.json_schema} if wanted.json_schema is not None else {})


def _wishes(chat: ChatRequest) -> dict[str, Any]:
    """Gather what a chat wishes of all its media; what a part wishes of itself goes before that."""
    pixels, reading = (
        chat.mm_processor_kwargs or PixelWishes(),
        (chat.media_io_kwargs or MediaReading()).video or VideoReading(),
    )
    size = pixels.size or SizeWishes()
    found = {
        "min_pixels": pixels.min_pixels or size.shortest_edge,
        "max_pixels": pixels.max_pixels or size.longest_edge,
        "fps": pixels.fps or reading.fps,
        "nframes": reading.num_frames,
    }
    return {name: value for name, value in found.items() if value is not None}


def _message(path: str, turn: Turn, wishes: dict[str, Any]) -> Message:
    for name, value in (turn.model_extra or {}).items():
        if value and name not in MEANINGLESS_IN_TURNS:  # else a picture beside the content would just not be seen
            msg = f"a message has no field {name[:100]!a}; pictures and videos stand among the parts of its content"
            raise UnsupportedParameter(msg, param=f"{path}.{name[:100]}")
    content: Any = turn.content if isinstance(turn.content, str) else [_with_wishes(part, wishes) for part in turn.content]
    calls = [ToolCall(id=call.id, function=_called(call.function)) for call in turn.tool_calls or ()]
    role = "system" if turn.role == "developer" else turn.role
    return Message.model_construct(role=role, content=content, tool_calls=calls, tool_call_id=turn.tool_call_id)


def _called(function: WrittenCall) -> CalledFunction:
    arguments = function.arguments
    written = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
    return CalledFunction(name=function.name, arguments=written or "{}")


def _with_wishes(part: TextPart | ImagePart | VideoPart | FilePart, wishes: dict[str, Any]) -> Any:
    own = {name: value for name, value in part.model_dump().items() if value is not None}
    general = {name: value for name, value in wishes.items() if name in type(part).model_fields and name not in own}
    if {"fps", "nframes"} & own.keys():  # a part's own rate goes before the others'
        general = {name: value for name, value in general.items() if name not in {"fps", "nframes"}}
    if "max_pixels" in own and "max_pixels" in wishes:
        own["max_pixels"] = min(own["max_pixels"], wishes["max_pixels"])  # detail: low stays low
    return type(part).model_validate(own | general) if general or wishes else part
