"""Tools of a chat: which call is wanted, how an answer is held to it, and how calls are read out of a text. Pure: no I/O.

A function by name, or one that must be called, is a matter of structured output: the text is nothing but JSON. Where the model
may choose, it writes calls in the form of its family, JSON between ``<tool_call>`` and ``</tool_call>``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, JsonValue, StringConstraints, model_validator
from pydantic_core import from_json

from shared.errors import InvalidRequest

OPEN, CLOSE = "<tool_call>", "</tool_call>"
#: Calls in one answer: a weak model that has to call might never stop.
MAX_CALLS = 8
_ANY_ARGUMENTS: dict[str, JsonValue] = {"type": "object"}

FunctionName = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class _Known(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Function(_Known):
    """What may be called."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None  #: calls by name are always held to their schema, others never


def _nested(raw: object) -> object:
    """Give a function, or the choice of one, in a chat's form: a response's has its fields beside the type."""
    if isinstance(raw, dict) and raw.get("type") == "function" and "function" not in raw and "name" in raw:
        return {"type": "function", "function": {name: value for name, value in raw.items() if name != "type"}}
    return raw


class Tool(BaseModel):
    """A tool; only functions can be called."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    type: Literal["function"]
    function: Function

    _form = model_validator(mode="before")(_nested)


class _Named(_Known):
    name: FunctionName


class OneFunction(_Known):
    """A choice that leaves none."""

    type: Literal["function"]
    function: _Named

    _form = model_validator(mode="before")(_nested)


def _word(raw: object) -> object:
    """Take the word out of an object that holds nothing else, as some editors send it."""
    return raw["type"] if isinstance(raw, dict) and raw.keys() == {"type"} else raw


ToolChoice = Annotated[Literal["none", "auto", "required"] | OneFunction, BeforeValidator(_word)]


@dataclass(frozen=True)
class Calls:
    """Which calls an answer may hold, and how they stand in its text."""

    mode: Literal["none", "auto", "required", "named"]
    tools: tuple[Function, ...] = ()
    name: str = ""  #: of the one function
    most: int = MAX_CALLS

    @classmethod
    def of(cls, tools: list[Tool] | None, choice: ToolChoice | None, *, parallel: bool | None) -> Calls:
        """Read what a chat says.

        Raises:
            InvalidRequest: it chooses among no tools, or one that is not there.
        """
        functions = tuple(tool.function for tool in tools or ())
        if len({function.name for function in functions}) < len(functions):
            raise InvalidRequest("two tools have the same name", param="tools")
        if not functions:
            if choice not in {None, "none", "auto"} if isinstance(choice, str | None) else True:
                raise InvalidRequest("tool_choice asks for a call, and there are no tools", param="tool_choice")
            return cls("none")
        most = 1 if parallel is False else MAX_CALLS
        if isinstance(choice, OneFunction):
            name = choice.function.name
            if name not in {function.name for function in functions}:
                msg = f"tool_choice names {name[:100]!a}, which is not among the tools"
                raise InvalidRequest(msg, param="tool_choice")
            return cls("named", functions, name, 1)
        return cls(choice or "auto", functions, "", most)

    @property
    def shown(self) -> list[dict[str, Any]]:
        """What the model is shown of the tools; nothing where it is not to call any."""
        return [] if self.mode == "none" else [_shown(function) for function in self.tools]

    def response_format(self) -> dict[str, Any] | None:
        """What the text is held to; None where the model chooses."""
        if self.mode == "named":
            schema = next(function.parameters for function in self.tools if function.name == self.name) or _ANY_ARGUMENTS
        elif self.mode == "required":
            schema = _any_of(self.tools, self.most)
        else:
            return None
        return {"type": "json_schema", "json_schema": {"name": self.name or "calls", "schema": schema}}

    def read(self, text: str) -> tuple[str | None, list[tuple[str, str]]]:
        """Take an answer apart.

        Returns:
            What is said beside the calls, None where nothing is; and each call's name and arguments, which are JSON.
        """
        if self.mode == "named":
            return None, [(self.name, text)]
        if self.mode == "required":
            calls = _parse_list(text)
            return (None, calls) if calls else (text, [])
        if self.mode == "none" or OPEN not in text:
            return text, []
        said, *pieces = text.split(OPEN)
        calls = [call for piece in pieces if (call := _parse(piece.partition(CLOSE)[0]))]
        if not calls:
            return text, []
        rest = "".join(piece.partition(CLOSE)[2] for piece in pieces)
        return (said + rest).rstrip() or None, calls[: self.most]  # a stream has sent its beginning as it is


def _shown(function: Function) -> dict[str, Any]:
    return {"type": "function", "function": function.model_dump(exclude_none=True, exclude={"strict"})}


def _any_of(functions: tuple[Function, ...], most: int) -> dict[str, JsonValue]:
    """Make the schema of a list of calls; each function's own stands among its definitions."""
    places = {f"tool{n}": function for n, function in enumerate(functions)}
    definitions = {place: _moved(one.parameters or _ANY_ARGUMENTS, f"#/$defs/{place}") for place, one in places.items()}
    calls: list[JsonValue] = [_call(one.name, f"#/$defs/{place}") for place, one in places.items()]
    return {"type": "array", "minItems": 1, "maxItems": most, "items": {"anyOf": calls}, "$defs": definitions}


def _call(name: str, place: str) -> dict[str, JsonValue]:
    properties: dict[str, JsonValue] = {"name": {"const": name}, "arguments": {"$ref": place}}
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def _moved(schema: JsonValue, place: str) -> JsonValue:
    """Give a schema whose references, which count from its root, lead to the same in its new place."""
    if isinstance(schema, list):
        return [_moved(member, place) for member in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: place + value[1:] if name == "$ref" and isinstance(value, str) and value.startswith("#") else _moved(value, place)
        for name, value in schema.items()
    }


def _parse(text: str) -> tuple[str, str] | None:
    """Read one call; None where it is none."""
    try:
        return _of(json.loads(text))
    except (ValueError, RecursionError):
        return None


def _parse_list(text: str) -> list[tuple[str, str]]:
    """Read the calls of a list; of one that was cut off those that are whole."""
    try:
        found, is_whole = from_json(text), True
    except ValueError:
        try:
            found, is_whole = from_json(text, allow_partial=True), False
        except ValueError:
            return []
    calls = found if isinstance(found, list) else [found]
    return [call for one in (calls if is_whole else calls[:-1]) if (call := _of(one))]


def _of(call: object) -> tuple[str, str] | None:
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", call.get("parameters", {}))
    return call["name"], arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


class CallStream:
    """Finds the calls in a text that is still growing: plain text goes out at once, each call when it is whole."""

    def __init__(self, calls: Calls) -> None:
        """Begin with nothing sent."""
        self._calls, self._text, self._sent, self._n_calls = calls, "", 0, 0

    def add(self, piece: str) -> Iterator[dict[str, Any]]:
        """Take a piece, and give the deltas that follow from it, without ids."""
        self._text += piece
        if self._calls.mode == "none":
            yield {"content": piece}
        elif self._calls.mode == "named":
            function = {"arguments": piece} | ({"name": self._calls.name} if not self._n_calls else {})
            yield {"tool_calls": [{"index": 0, "function": function}]}
            self._n_calls = 1
        elif self._calls.mode == "auto":
            yield from self._say(self._sayable())
            yield from self._call()

    def end(self) -> Iterator[dict[str, Any]]:
        """Give what is left when the text has ended."""
        if self._calls.mode == "auto":
            yield from self._call(is_whole=True)
            if not self._n_calls:
                yield from self._say(len(self._text))
        elif self._calls.mode == "required":
            said, _ = self._calls.read(self._text)
            if said is not None:
                yield {"content": said}
            yield from self._call(is_whole=True)

    @property
    def has_called(self) -> bool:
        """Whether a call was sent."""
        return bool(self._n_calls)

    def _sayable(self) -> int:
        """Say how much of the text is no call, and no beginning of one."""
        at = self._text.find(OPEN)
        if at >= 0:
            return len(self._text[:at].rstrip())
        beginning = next((n for n in range(len(OPEN), 0, -1) if self._text.endswith(OPEN[:n])), 0)
        return len(self._text[: len(self._text) - beginning].rstrip())

    def _say(self, until: int) -> Iterator[dict[str, Any]]:
        if until > self._sent:
            piece, self._sent = self._text[self._sent : until], until
            yield {"content": piece}

    def _call(self, *, is_whole: bool = False) -> Iterator[dict[str, Any]]:
        if not is_whole and CLOSE not in self._text:
            return
        _, calls = self._calls.read(self._text if is_whole else self._text[: self._text.rfind(CLOSE) + len(CLOSE)])
        for n, (name, arguments) in enumerate(calls[self._n_calls :], self._n_calls):
            yield {"tool_calls": [{"index": n, "function": {"name": name, "arguments": arguments}}]}
        self._n_calls = max(self._n_calls, len(calls))


def with_ids(delta: dict[str, Any], job_id: str) -> dict[str, Any]:
    """Give a delta whose calls are sent for the first time their ids."""
    for call in delta.get("tool_calls", ()):
        if "name" in call["function"]:
            call |= {"id": call_id(job_id, call["index"]), "type": "function"}
    return delta


def call_id(job_id: str, n: int) -> str:
    """Name a call after its job and its place."""
    return f"call_{job_id.removeprefix('job_')[-24:]}{n}"


def message_of(calls: Calls, text: str, job_id: str) -> dict[str, Any]:
    """Make the message of an answer."""
    said, found = calls.read(text)
    message: dict[str, Any] = {"role": "assistant", "content": said, "refusal": None}
    if found:
        message["tool_calls"] = [
            {"id": call_id(job_id, n), "type": "function", "function": {"name": name, "arguments": arguments}}
            for n, (name, arguments) in enumerate(found)
        ]
    return message
