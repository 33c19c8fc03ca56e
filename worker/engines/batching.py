"""Requests that wait for the transformers engine, and which of them one call of ``generate`` can serve."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from shared.sampling_params import Sampling
from worker.engines.base import Generation
from worker.engines.inputs import Inputs


@dataclass(frozen=True)
class Waiting:
    """A request that waits for its batch."""

    request_id: str
    inputs: Inputs
    sampling: Sampling
    answer: asyncio.Future[Generation]
    rank: tuple[int, float]  #: urgency, then arrival

    def __lt__(self, other: Waiting) -> bool:
        return self.rank < other.rank


async def gather(queue: asyncio.PriorityQueue[Waiting], *, most: int, window_ms: int) -> list[Waiting]:
    """Wait for a first request, then a few milliseconds for company.

    Args:
        queue: those that wait.
        most: to take at a time.
        window_ms: how long the first one waits for others.
    """
    gathered = [await queue.get()]
    until = time.monotonic() + window_ms / 1000
    while len(gathered) < most:
        try:
            gathered.append(await asyncio.wait_for(queue.get(), max(0.0, until - time.monotonic())))
        except TimeoutError:
            break
    return [waiting for waiting in gathered if not waiting.answer.done()]


def alike(gathered: list[Waiting]) -> list[list[Waiting]]:
    """Split what was gathered into batches that one call of ``generate`` can serve: the same sampling, no seed twice."""
    batches: dict[str, list[Waiting]] = {}
    for n, waiting in enumerate(gathered):
        alone = str(n) if waiting.sampling.seed is not None else ""
        batches.setdefault(alone + waiting.sampling.model_dump_json(), []).append(waiting)
    return list(batches.values())


def options_of(sampling: Sampling, tokenizer: Any, *, room: int) -> dict[str, Any]:
    """Say to ``generate`` how the text is drawn; the answer has so many tokens of room."""
    import torch

    if sampling.seed is not None:
        torch.manual_seed(sampling.seed)
    options: dict[str, Any] = {
        "max_new_tokens": min(room, sampling.max_tokens or room),
        "repetition_penalty": sampling.repetition_penalty,
        "do_sample": sampling.temperature > 0,
    }
    if sampling.temperature > 0:
        options |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": max(0, sampling.top_k)}
        options |= {"min_p": sampling.min_p} if sampling.min_p else {}
    if sampling.stop:
        options |= {"stop_strings": sampling.stop, "tokenizer": tokenizer}
    return options


def settle(future: asyncio.Future[Generation], answer: Generation | Exception) -> None:
    """Answer a caller, unless he has left."""
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
