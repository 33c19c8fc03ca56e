"""Structured answers: whatever the demo model would rather say, the text is JSON of the schema."""

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

SEED = 881_000


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


COLOURS = ["red", "green", "blue", "yellow"]
WHOLE = {"type": "integer", "minimum": 0, "maximum": 9}
#: What people ask for: choices, counts, lists, one in another, Chinese, alternatives, short text.
SCHEMAS: dict[str, dict[str, Any]] = {
    "choice": _object(colour={"enum": COLOURS}, count=WHOLE),
    "list": {"type": "array", "items": {"enum": COLOURS}, "minItems": 1, "maxItems": 3},
    "nested": _object(
        shapes={"type": "array", "maxItems": 2, "items": _object(colour={"enum": COLOURS}, round={"type": "boolean"})}
    ),
    "chinese": _object(颜色={"enum": ["红色", "绿色", "蓝色"]}, 形状={"enum": ["圆", "方块", "三角形"]}),
    "either": {"anyOf": [_object(none={"const": True}), _object(count=WHOLE)]},
    "pattern": _object(code={"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}, note={"type": ["null", "boolean"]}),
    "short text": _object(caption={"type": "string", "maxLength": 40}),
}
#: The demo model rarely ends a text inside of quotes, so that its answer may be cut off: the client is told, as by OpenAI.
FREE_TEXT = _object(caption={"type": "string"}, sure={"type": "boolean"})


async def schema(folder: Path, *, n: int = 100, n_free: int = 12) -> Figures:
    """Ask ``n`` times for JSON of one of the schemas, eight at a time, and some times for a text without a limit."""
    async with rigged(folder, SIGHTLINE_ENGINE="vllm", SIGHTLINE_MODEL="demo") as rig, client_of(rig) as client:
        at_a_time = asyncio.Semaphore(8)
        names = [list(SCHEMAS)[i % len(SCHEMAS)] for i in range(n)]
        answers = await asyncio.gather(*(_ask(client, at_a_time, i, SCHEMAS[name]) for i, name in enumerate(names)))
        free = await asyncio.gather(*(_ask(client, at_a_time, n + i, FREE_TEXT) for i in range(n_free)))
    faults = {f"{i} {name}": fault for i, (name, (_, fault)) in enumerate(zip(names, answers, strict=True)) if fault}
    return {
        "asked": n,
        "schemas": len(SCHEMAS),
        "valid": n - len(faults),
        "faults": faults,
        "ends": Counter(reason for reason, _ in answers),
        "free_text": {
            "asked": n_free,
            "valid": sum(not fault for _, fault in free),
            "cut": Counter(r for r, fault in free if fault),
        },
        "ok": not faults and all(reason == "length" for reason, fault in free if fault),
    }


async def _ask(client: AsyncOpenAI, at_a_time: asyncio.Semaphore, i: int, wanted: dict[str, Any]) -> tuple[str, str]:
    """Give why the text ended, and what is wrong with it, if anything."""
    form: Any = {"type": "json_schema", "json_schema": {"name": "scene", "schema": wanted, "strict": True}}
    prompt = ("Describe this image.", "请用中文描述一下这张图片")[i % 2]
    async with at_a_time:
        answer = await client.chat.completions.create(
            model="qwen-vl", messages=ask(prompt, scene(SEED + i).png()), response_format=form
        )
    text = answer.choices[0].message.content or ""
    try:
        errors = [error.message for error in Draft202012Validator(wanted).iter_errors(json.loads(text))]
    except ValueError:
        errors = [f"no JSON: {text[:80]}"]
    return answer.choices[0].finish_reason, "; ".join(errors)
