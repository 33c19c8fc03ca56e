"""What the trials stand on: the whole system as processes that may be killed, its memory, pictures in chats."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from openai import AsyncOpenAI

from sightline.stack import Stack
from tests.chaos.rig import Rig, quiet_port
from tests.media import data_url, picture

Figures = dict[str, Any]

DOUBLE = {"SIGHTLINE_ENGINE": "tests.double:DoubleEngine"}
MIB = 2**20


@asynccontextmanager
async def rigged(folder: Path, *, workers: int = 1, runners: int = 1, **settings: str) -> AsyncIterator[Rig]:
    """Run the whole system, with so many runners of batches, on ports that its parts can come back to."""
    stack = Stack(folder, port=quiet_port(random.Random()), settings=settings, workers=workers)
    with stack:
        for n in range(1, runners):
            stack.spawn(f"batches-{n}", "api.batches.main")
        await asyncio.to_thread(stack.wait_ready)
        rig = Rig(stack, [name for name in stack.processes if name.startswith("worker-")])
        for name in rig.workers:
            await rig.up(name)
        try:
            yield rig
        finally:
            await rig.redis.aclose()


def client_of(rig: Rig) -> AsyncOpenAI:
    """Make the published client; it repeats nothing by itself, so that nothing is hidden."""
    return AsyncOpenAI(base_url=f"{rig.stack.url}/v1", api_key="EMPTY", max_retries=0, timeout=120)


def ask(prompt: str, *pictures: bytes) -> list[Any]:
    """Make the messages of a chat."""
    images = [{"type": "image_url", "image_url": {"url": data_url(data)}} for data in pictures]
    return [{"role": "user", "content": [*images, {"type": "text", "text": prompt}]}]


def plain(n: int) -> tuple[bytes, str]:
    """Make a picture whose colour tells its number, and what the double says of it."""
    colour = (n // 250, n % 250, 99)
    return picture(colour), "1 x 532x392 #{:02x}{:02x}{:02x};".format(*colour)


@dataclass
class Memory:
    """The peaks of the parts' resident memory, MiB: of the process itself, and together with its children."""

    alone: dict[str, int] = field(default_factory=dict)
    together: dict[str, int] = field(default_factory=dict)

    async def watch(self, rig: Rig) -> None:
        """Look again and again until cancelled; a part that was killed is followed into its next life."""
        while True:
            self.look(rig)
            await asyncio.sleep(0.1)

    def look(self, rig: Rig) -> dict[str, int]:
        """Look once; gives the peaks of the processes themselves so far."""
        for name in ("gateway", "batches", *rig.workers):
            kind = name.partition("-")[0]
            own, children = _resident(rig.stack.processes[name].pid)
            self.alone[kind] = max(self.alone.get(kind, 0), own // MIB)
            self.together[kind] = max(self.together.get(kind, 0), (own + children) // MIB)
        return dict(self.alone)


def _resident(pid: int) -> tuple[int, int]:
    try:
        process = psutil.Process(pid)
        children = process.children(recursive=True)
        return process.memory_info().rss, sum(child.memory_info().rss for child in children)
    except psutil.Error:  # it was killed at this very moment
        return 0, 0


def percentile(values: list[float], share: float) -> float:
    """Give the value below which this share lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
