"""What a fresh engine answers first: every kind of sampling, in bursts that fit into its batch."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shared.errors import BadSchema
from shared.sampling_params import Sampling
from worker.engines.vllm import VllmEngine
from worker.engines.vllm_warmup import answer_bursts, bursts


def test_every_kind_of_sampling_is_there_alone_and_in_company() -> None:
    sent = bursts(256)

    alone = [burst[0] for burst in sent if len(burst) == 1]
    together = [burst[0] for burst in sent if len(burst) > 1]
    for one in (alone, together):
        assert any(s == Sampling(max_tokens=s.max_tokens) for s in one)  # the default
        assert any(s.temperature == 0 and s.repetition_penalty == 1 for s in one)
        assert any(s.temperature > 0 and s.top_p == 1 for s in one)
        assert any(0.5 < s.top_p < 1 for s in one)
        assert any(s.seed is not None for s in one)
        assert any(s.top_k > 0 and s.top_p == 1 for s in one)
        assert any(s.top_k > 0 and s.top_p < 1 for s in one)
        assert any(s.min_p > 0 for s in one)
        assert any(s.presence_penalty and s.frequency_penalty for s in one)
        assert any(s.response_format is not None for s in one)


@pytest.mark.parametrize(("slots", "most"), [(256, 80), (32, 16), (1, 1)])
def test_no_burst_is_larger_than_the_batch(slots: int, most: int) -> None:
    assert max(map(len, bursts(slots))) == most


async def test_what_the_model_cannot_answer_leaves_the_others() -> None:
    asked = list[str]()

    async def generate(_: Any, sampling: Sampling, *, request_id: str) -> None:
        asked.append(request_id)
        if sampling.response_format:
            raise BadSchema

    await answer_bursts(generate, slots=4)

    assert len(asked) == len(set(asked)) == sum(map(len, bursts(4)))


async def test_the_listener_ends_before_the_engine_does() -> None:
    """Else vLLM takes the end for a death, and writes a traceback for it."""
    seen = list[bool]()

    class Llm:
        def __init__(self) -> None:
            self.output_handler = asyncio.create_task(asyncio.sleep(60))

        def shutdown(self) -> None:
            seen.append(self.output_handler.done())

    class Threads:
        def shutdown(self, **_: Any) -> None:
            pass

    engine = VllmEngine.__new__(VllmEngine)
    engine._llm, engine._threads = Llm(), Threads()  # type: ignore[assignment]

    await engine.close()

    assert seen == [True]
