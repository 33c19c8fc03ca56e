"""Calls of tools: whatever the demo model would rather say, a function by name and one that is required are called validly."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from openai import AsyncOpenAI

from demo.scenes import scene
from tests.openai.parts import Figures, ask, client_of, rigged

SEED = 882_000
COLOURS = {"C": {"enum": ["red", "green", "blue"], "type": "string"}}
DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}


def _function(name: str, properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "parameters": {"type": "object", "properties": properties, "required": [*properties], **more}}


#: Schemas as pydantic and zod write them; two of them call different things by the same name.
FUNCTIONS = [
    _function("paint", {"colour": {"$ref": "#/$defs/C"}, "round": {"type": "boolean"}}, **{"$defs": COLOURS}),
    _function("count", {"n": {"$ref": "#/definitions/C"}, "m": {"$ref": "#/properties/n"}}, definitions={"C": DIGIT}),
    _function(
        "name", {"形状": {"$ref": "#/$defs/C"}}, **{"$defs": {"C": {"enum": ["圆", "方块"]}}}, additionalProperties=False
    ),
]
TOOLS: Any = [{"type": "function", "function": function} for function in FUNCTIONS]
WAYS = [f"{choice}{how}" for choice in ("named", "required", "parallel") for how in ("", ", stream")]


async def tools(folder: Path, *, n: int = 100) -> Figures:
    """Ask ``n`` times for each way to call, eight at a time."""
    async with rigged(folder, SIGHTLINE_ENGINE="vllm", SIGHTLINE_MODEL="demo") as rig, client_of(rig) as client:
        at_a_time = asyncio.Semaphore(8)
        asked = [(way, i) for way in WAYS for i in range(n // 2)]
        faults = await asyncio.gather(*(_ask(client, at_a_time, i, way) for way, i in asked))
    return {
        "asked": dict(Counter(way for way, _ in asked)),
        "valid": dict(Counter(way for (way, _), fault in zip(asked, faults, strict=True) if not fault)),
        "faults": {f"{i} {way}": fault for (way, i), fault in zip(asked, faults, strict=True) if fault},
        "ok": not any(faults),
    }


async def _ask(client: AsyncOpenAI, at_a_time: asyncio.Semaphore, i: int, way: str) -> str:
    """Give what is wrong with a call, if anything."""
    name = FUNCTIONS[i % len(FUNCTIONS)]["name"]
    choice: Any = {"type": "function", "function": {"name": name}} if way.startswith("named") else "required"
    request: Any = {"messages": ask("Describe this image.", scene(SEED + i).png()), "tools": TOOLS, "tool_choice": choice}
    async with at_a_time:
        calls = await _calls(client, stream="stream" in way, parallel_tool_calls=way.startswith("parallel"), **request)
    if not calls:
        return "no call"
    if not way.startswith("parallel") and len(calls) != 1:
        return f"{len(calls)} calls"
    return "; ".join(fault for called, arguments in calls if (fault := _fault(called, arguments, name, way)))


async def _calls(client: AsyncOpenAI, *, stream: bool, **request: Any) -> list[tuple[str, str]]:
    """Give name and arguments of each call, put together from a stream's pieces as the package does."""
    if not stream:
        answer = await client.chat.completions.create(model="qwen-vl", **request)
        return [(call.function.name, call.function.arguments) for call in answer.choices[0].message.tool_calls or ()]  # type: ignore[union-attr]
    found: dict[int, list[str]] = {}
    async for chunk in await client.chat.completions.create(model="qwen-vl", stream=True, **request):
        for piece in [piece for one in chunk.choices for piece in one.delta.tool_calls or ()]:
            call = found.setdefault(piece.index, ["", ""])
            call[0] += piece.function.name or ""
            call[1] += piece.function.arguments or ""
    return [(called, arguments) for called, arguments in found.values()]


def _fault(called: str, arguments: str, name: str, way: str) -> str:
    if way.startswith("named") and called != name:
        return f"called {called}, not {name}"
    schema = next((one["parameters"] for one in FUNCTIONS if one["name"] == called), None)
    if schema is None:
        return f"there is no {called}"
    try:
        return "; ".join(error.message for error in Draft202012Validator(schema).iter_errors(json.loads(arguments)))
    except ValueError:
        return f"no JSON: {arguments[:80]}"
