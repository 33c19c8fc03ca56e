"""The transformers engine with the demo model: what it does with requests that nobody waits for any more."""

from __future__ import annotations

import asyncio

from shared.jobs import Sampling
from tests.conftest import make_settings


async def test_what_was_stopped_is_forgotten() -> None:
    from worker.engines.transformers import TransformersEngine

    engine = TransformersEngine(make_settings(dtype="float32", max_model_len=1024))
    await engine.start()
    message = {"role": "user", "content": [{"type": "text", "text": "x"}]}
    sampling = Sampling(temperature=0, top_p=1, max_tokens=800)
    try:
        asked = asyncio.create_task(engine.generate([message], sampling, request_id="a"))
        left = asyncio.create_task(engine.generate([message], sampling, request_id="b"))
        await asyncio.sleep(0)  # both are known now, and not rendered
        left.cancel()
        await engine.abort("a")
        await engine.abort("nobody")

        stopped = await asked
        later = await engine.generate([message], sampling.model_copy(update={"max_tokens": 2}), request_id="a")
    finally:
        await engine.close()

    assert stopped.output.finish_reason == "cancelled"
    assert later.output.finish_reason != "cancelled"
    assert engine._aborted == engine._known == set()
