"""What both players have in common: the job, and how they hear what to play. It imports nothing of the service."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, Protocol

#: A job as a client makes it: a picture stored as a file, a Chinese prompt; where it is wanted, one receiver of webhooks.
PARTS = [
    {"type": "image", "image": "file-0198c0de0198c0de0198c0de0198c0de"},
    {"type": "text", "text": "请用中文描述一下这张图片"},
]
REQUEST = {"messages": [{"role": "user", "content": PARTS}]}
HOOK = {"webhook": {"url": "https://example.com/hook"}}
TEXTS = {
    "latin": "A red circle and a blue square. " * 12 + "A white wall.  x",
    "chinese": "图中有一个红色的圆和一个蓝色方块。" * 23 + "背景是白色的。完毕",
}
ANSWER = {"finish_reason": "stop", "usage": {"prompt_tokens": 1100, "vision_tokens": 1054, "output_tokens": 64}}
ENGINE = {"name": "vllm", "version": "0.32.0", "model": "qwen-vl"}
TIMINGS_MS = {"queue": 12, "fetch": 30, "decode": 25, "render": 20, "generate": 900, "total": 1000}


def output_facts(text: str) -> dict[str, Any]:
    """Give the output with this text, as the model of an output takes it."""
    return {"text": TEXTS[text], **ANSWER, "engine": ENGINE, "timings_ms": TIMINGS_MS}


class Player(Protocol):
    """Plays jobs through the scripts, as gateway, worker and sender do, ``k`` of them together."""

    async def live(self, n: int, k: int, *, webhook: bool) -> None:
        """Play n whole jobs, from the submit to the end, or to the delivery."""

    async def queue(self, n: int, *, webhook: bool) -> None:
        """Submit n jobs."""

    async def end(self, text: str, *, webhook: bool) -> None:
        """Run the jobs that were queued."""


async def obey(player: Player) -> None:
    """Play what is asked for in lines of JSON on standard input, and answer each with a line."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        what = json.loads(line)
        await getattr(player, what.pop("do"))(**what)
        print("done", flush=True)
