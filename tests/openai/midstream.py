"""Workers that are killed in the middle of a stream: the client gets the rest, or is told that it cannot have it."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from openai import APIError, AsyncOpenAI

from tests.chaos.rig import Rig
from tests.media import picture
from tests.openai.parts import DOUBLE, Figures, ask, client_of, rigged
from tests.sse import tell, text_of

WORDS = " ".join(f"第{n}词" for n in range(40))
SEEN = "1 x 532x392 #dc1e1e;"


@dataclass
class ResponseEvents:
    """What came of one stream."""

    told: str = ""
    outcome: str = "silent"  #: rest | wrong | the code of the error event | silent
    killed_at_s: float = 0.0
    pause_s: float = 0.0  #: from the kill to the next piece, or the error
    events_agree: bool = False  #: the job's own events end with the job, and their text is its output
    resets: int = 0
    back: list[asyncio.Task[None]] = field(default_factory=list)

    def hear(self, piece: str) -> None:
        """Take a piece of the text."""
        self.told += piece
        if piece and self.killed_at_s and not self.pause_s:
            self.pause_s = time.monotonic() - self.killed_at_s


async def midstream(folder: Path, *, n: int = 20, n_differing: int = 5) -> Figures:
    """Kill the worker's whole process in the middle of ``n`` streams, and of some whose text is another on every worker."""
    rng = random.Random(1)
    async with rigged(folder, workers=2, **DOUBLE) as rig, client_of(rig) as client:
        same = [await _one(rig, client, f"!speak 0.05 {WORDS}", rng) for _ in range(n)]
        differing = [await _one(rig, client, f"!speak 0.05 !pid {WORDS}", rng) for _ in range(n_differing)]
    pauses = sorted(story.pause_s for story in same)
    return {
        "kills": n,
        "outcomes": Counter(story.outcome for story in same),
        "pause_p50_s": round(pauses[len(pauses) // 2], 1),
        "pause_max_s": round(pauses[-1], 1),
        "kills_with_another_text": n_differing,
        "outcomes_with_another_text": Counter(story.outcome for story in differing),
        "events_disagree": sum(not story.events_agree for story in [*same, *differing]),
        "resets_missing": sum(not story.resets for story in [*same, *differing]),
        "ok": {story.outcome for story in same} == {"rest"}
        and {story.outcome for story in differing} <= {"stream_broken"}
        and all(story.events_agree and story.resets for story in [*same, *differing]),
    }


async def _one(rig: Rig, client: AsyncOpenAI, prompt: str, rng: random.Random) -> ResponseEvents:
    story, expected = ResponseEvents(), f"{SEEN} {prompt}"
    mark = rng.uniform(0.2, 0.9) * len(expected)
    stream = await client.chat.completions.create(model="qwen-vl", messages=ask(prompt, picture()), stream=True)
    events: asyncio.Task[None] | None = None
    try:
        async for chunk in stream:
            job_id = chunk.id.replace("chatcmpl-", "job_")
            events = events or asyncio.create_task(_follow(rig, job_id, story))
            story.hear(chunk.choices[0].delta.content or "")
            if len(story.told) > mark and not story.killed_at_s:
                await _kill(rig, job_id, story)
            if chunk.choices[0].finish_reason == "stop":
                story.outcome = "rest" if story.told == expected else "wrong"
    except APIError as error:
        story.outcome = str(error.code)
        story.pause_s = story.pause_s or time.monotonic() - story.killed_at_s
    assert events
    await events
    await asyncio.gather(*story.back)
    return story


async def _kill(rig: Rig, job_id: str, story: ResponseEvents) -> None:
    (name,) = [name for name in rig.workers if job_id in await rig.victims(name)]
    await rig.kill(name)
    story.killed_at_s = time.monotonic()
    story.back.append(asyncio.create_task(rig.back(name)))


async def _follow(rig: Rig, job_id: str, story: ResponseEvents) -> None:
    async with httpx.AsyncClient(base_url=rig.stack.url) as client:
        events = [event async for event in tell(client, f"/v1/jobs/{job_id}/events")]
    last = events[-1]
    story.resets = sum(event.type == "job.reset" for event in events)
    story.events_agree = last.type == "job.succeeded" and text_of(events) == last.data["output"]["text"]
