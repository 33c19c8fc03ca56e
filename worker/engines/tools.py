"""Tools and their calls in a conversation, as a checkpoint's chat template takes them, or written out where it does not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

Message = dict[str, Any]

#: Qwen's models write calls so; Qwen2-VL's and Qwen2.5-VL's own templates say nothing of tools, their text models' do.
_GUIDE = """# Tools

These functions can be called; each is given as JSON within <tools></tools>:
<tools>
{tools}
</tools>

To call one, answer with a JSON object of its name and arguments within <tool_call></tool_call>:
<tool_call>
{{"name": <name>, "arguments": <object>}}
</tool_call>"""


def arrange(conversation: Sequence[Message], tools: Sequence[dict[str, Any]], template: str) -> list[Message]:
    """Give the messages as a template takes them.

    Args:
        conversation: turns with parts, and ``tool_calls`` where there were some.
        tools: what the model may call.
        template: the checkpoint's own, in Jinja.
    """
    if knows_tools(template):
        return [_with_objects(message) for message in conversation]
    written = [_written(message) for message in conversation]
    return _merged(_guided(written, tools) if tools else written)


def knows_tools(template: str) -> bool:
    """Say whether a template writes tools and their calls itself."""
    return "tools" in template and "tool_calls" in template


def _with_objects(message: Message) -> Message:
    """Give calls their arguments as objects: templates write them as JSON, and would write a text as a text."""
    if "tool_calls" not in message:
        return message
    calls = [call | {"function": call["function"] | {"arguments": _object(call)}} for call in message["tool_calls"]]
    return message | {"tool_calls": calls}


def _object(call: dict[str, Any]) -> Any:
    try:
        return json.loads(call["function"]["arguments"] or "{}")
    except ValueError:
        return call["function"]["arguments"]


def _written(message: Message) -> Message:
    """Write calls and results as text."""
    parts = message["content"]
    if message["role"] == "tool":
        return {"role": "user", "content": [_text("<tool_response>\n"), *parts, _text("\n</tool_response>")]}
    calls = [
        json.dumps({"name": call["function"]["name"], "arguments": _object(call)}, ensure_ascii=False)
        for call in message.get("tool_calls", ())
    ]
    texts = [_text(f"\n<tool_call>\n{call}\n</tool_call>") for call in calls]
    return {"role": message["role"], "content": [*parts, *texts]}


def _guided(messages: list[Message], tools: Sequence[dict[str, Any]]) -> list[Message]:
    guide = _GUIDE.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    if messages and messages[0]["role"] == "system":
        first = messages[0] | {"content": [*messages[0]["content"], _text(f"\n\n{guide}")]}
        return [first, *messages[1:]]
    return [{"role": "system", "content": [_text(guide)]}, *messages]


def _merged(messages: list[Message]) -> list[Message]:
    """Put turns of the user that follow each other into one: results of several calls come as a turn each."""
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"] == "user":
            merged[-1] = merged[-1] | {"content": [*merged[-1]["content"], _text("\n"), *message["content"]]}
        else:
            merged.append(message)
    return merged


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
