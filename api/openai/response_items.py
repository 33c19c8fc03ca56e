"""What a response's output consists of, a message and calls of functions, and the events that tell of one. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict

from api.openai.tools import Calls, Tool, ToolChoice, call_id

Item = dict[str, Any]
Events = Iterator[tuple[str, dict[str, Any]]]


class AskedTools(BaseModel):
    """What a request for a response says of tools, in a chat's form; a response says the same in its own."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None

    @property
    def calls(self) -> Calls:
        """Which calls the answer may hold."""
        return Calls.of(self.tools, self.tool_choice, parallel=self.parallel_tool_calls)

    def echoed(self) -> dict[str, Any]:
        """Give what a response says of them: nothing where there are none."""
        if not self.tools:
            return {}
        choice = self.tool_choice or "auto"
        return {
            "tools": [{"type": "function", **tool.function.model_dump()} for tool in self.tools],
            "tool_choice": choice if isinstance(choice, str) else {"type": "function", "name": choice.function.name},
            "parallel_tool_calls": self.parallel_tool_calls is not False,
        }


def output_items(job_id: str, calls: Calls, text: str, status: str) -> list[Item]:
    """Take an answer apart: what is said, if anything is, and then the calls.

    Args:
        job_id: names the items.
        calls: which ones the text may hold.
        text: of the answer, as far as there is one.
        status: of the response.
    """
    said, found = calls.read(text)
    spoken = [message(job_id, said or "", status)] if said is not None or not found else []
    return spoken + [call(job_id, n, name, arguments, status) for n, (name, arguments) in enumerate(found)]


def message(job_id: str, text: str, status: str) -> Item:
    """Make the item of what is said."""
    content = [_text(text)]
    return {"type": "message", "id": message_id(job_id), "role": "assistant", "status": _status(status), "content": content}


def call(job_id: str, n: int, name: str, arguments: str, status: str) -> Item:
    """Make the item of a call, the n-th of its response."""
    call_name = call_id(job_id, n)
    return {
        "type": "function_call",
        "id": call_name.replace("call_", "fc_", 1),
        "call_id": call_name,
        "name": name,
        "arguments": arguments,
        "status": _status(status),
    }


def message_id(job_id: str) -> str:
    """Name a message after its job."""
    return job_id.replace("job_", "msg_", 1)


def written_in(item: Item) -> str:
    """Give what grows in an item while it is streamed: a message's text, or a call's arguments."""
    text: str = item["arguments"] if _is_call(item) else item["content"][0]["text"]
    return text


def begun(item: Item, index: int) -> Events:
    """Tell that an item begins, with nothing in it yet."""
    empty: Item = {"arguments": ""} if _is_call(item) else {"content": []}
    yield "response.output_item.added", {"output_index": index, "item": item | empty | {"status": "in_progress"}}
    if not _is_call(item):
        yield "response.content_part.added", {**_part(item, index), "part": _text("")}


def grown(item: Item, index: int, piece: str) -> Events:
    """Tell that an item has become longer by a piece."""
    if _is_call(item):
        yield "response.function_call_arguments.delta", {**_place(item, index), "delta": piece}
    else:
        yield "response.output_text.delta", {**_part(item, index), "delta": piece, "logprobs": []}


def ended(item: Item, index: int) -> Events:
    """Tell that an item is whole."""
    if _is_call(item):
        whole = {"name": item["name"], "arguments": item["arguments"]}
        yield "response.function_call_arguments.done", {**_place(item, index), **whole}
    else:
        yield "response.output_text.done", {**_part(item, index), "text": written_in(item), "logprobs": []}
        yield "response.content_part.done", {**_part(item, index), "part": item["content"][0]}
    yield "response.output_item.done", {"output_index": index, "item": item}


def _is_call(item: Item) -> bool:
    return bool(item["type"] == "function_call")


def _place(item: Item, index: int) -> dict[str, Any]:
    return {"item_id": item["id"], "output_index": index}


def _part(item: Item, index: int) -> dict[str, Any]:
    return {**_place(item, index), "content_index": 0}


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _status(status: str) -> str:
    return status if status in {"completed", "in_progress"} else "incomplete"
