"""What a fresh engine answers before the first job, so that no job waits while a kernel is compiled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from shared.errors import SightlineError
from shared.sampling_params import JsonSchema, ResponseFormat, Sampling

log = structlog.get_logger()

#: vLLM's sampler for top_p has a kernel of its own for up to so many rows at a time on cards of 132 and 108 processors.
ROWS = (1, 2, 4, 8, 16, 33, 64, 80)
#: For each kind of sampling that people use besides the default, so many rows.
FEW_ROWS = (1, 4)
_SCHEMA = {"type": "object", "properties": {"a": {"enum": ["b", "c"]}}, "required": ["a"], "additionalProperties": False}


def kinds(tokens: int) -> list[Sampling]:
    """Give each kind of sampling that has kernels of its own, the default one first.

    Args:
        tokens: of each answer.
    """
    json = ResponseFormat(type="json_schema", json_schema=JsonSchema(name="warm_up", json_schema=_SCHEMA))
    return [
        Sampling(max_tokens=tokens),
        Sampling(max_tokens=tokens, temperature=0),
        Sampling(max_tokens=tokens, temperature=0, repetition_penalty=1),
        Sampling(max_tokens=tokens, temperature=0.7, top_p=0.9, repetition_penalty=1),
        Sampling(max_tokens=tokens, temperature=1, top_p=1, repetition_penalty=1),
        Sampling(max_tokens=tokens, temperature=1, top_p=1, repetition_penalty=1, seed=1),
        Sampling(max_tokens=tokens, temperature=1, top_p=1, repetition_penalty=1, top_k=20),
        Sampling(max_tokens=tokens, temperature=0.7, top_p=0.9, repetition_penalty=1, top_k=20),
        Sampling(max_tokens=tokens, temperature=1, top_p=1, repetition_penalty=1, min_p=0.1),
        Sampling(max_tokens=tokens, presence_penalty=0.5, frequency_penalty=0.5),
        Sampling(max_tokens=tokens, logprobs=1),  # ranks are counted by a function that torch compiles at its first call
        Sampling(max_tokens=8, temperature=0, repetition_penalty=1, response_format=json),
    ]


def bursts(slots: int, tokens: int = 3) -> list[list[Sampling]]:
    """Give the requests that are sent together, in turn; no more than fit into the batch.

    Args:
        slots: of the engine's batch.
        tokens: of each answer.
    """
    default, *others = kinds(tokens)
    wanted = [[default] * rows for rows in ROWS] + [[kind] * rows for kind in others for rows in FEW_ROWS]
    return [burst for burst in wanted if len(burst) <= slots]


async def answer_bursts(generate: Callable[..., Awaitable[Any]], slots: int) -> None:
    """Have every burst answered; one that the model cannot answer is logged, and leaves the others.

    Args:
        generate: an engine's, see :class:`worker.engines.base.Engine`.
        slots: of the engine's batch.
    """
    text = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
    for n, burst in enumerate(bursts(slots)):
        asked = (generate(text, sampling, request_id=f"warm-up-{n}-{row}") for row, sampling in enumerate(burst))
        try:
            await asyncio.gather(*asked)
        except SightlineError:
            log.warning("engine.warm_up_failed", sampling=burst[0].model_dump(exclude_defaults=True))
