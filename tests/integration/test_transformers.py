"""The transformers engine with the demo model: what it does with requests that nobody waits for, and when it hangs."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress

from shared.sampling_params import Sampling
from tests.conftest import make_settings
from worker.engines.base import EngineDead
from worker.supervisor import EngineSupervisor


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


async def test_a_model_that_hangs_counts_as_stuck() -> None:
    """One of its layers never returns, as a call of CUDA may; one that is only slow is left alone."""
    from worker.engines.transformers import TransformersEngine

    settings = make_settings(dtype="float32", max_model_len=1024, engine_stall_s=1.0)
    engine, hang, let_go = TransformersEngine(settings), threading.Event(), threading.Event()
    supervisor = EngineSupervisor(settings, lambda: engine)
    await supervisor.start()
    engine._model.generation_config.eos_token_id = [5]  # a token that it never says, so that the answer is long
    engine._model.model.language_model.layers[-1].register_forward_hook(
        lambda *_: let_go.wait() if hang.is_set() else time.sleep(0.2)
    )
    watching = asyncio.create_task(supervisor.wait_for_death())
    message, sampling = {"role": "user", "content": [{"type": "text", "text": "x"}]}, Sampling(temperature=0, max_tokens=15)
    try:
        answer = await engine.generate([message], sampling, request_id="a")
        assert answer.output.timings_ms["generate"] > 2 * 1000  # far longer than a layer may take
        await asyncio.sleep(1.2)
        assert (await engine.health()).stalled_s == 0
        assert not watching.done()

        hang.set()
        asked = asyncio.create_task(engine.generate([message], sampling, request_id="b"))
        async with asyncio.timeout(20):
            assert (await watching).startswith("no step for")
        asked.cancel()
        with suppress(asyncio.CancelledError, EngineDead):
            await asked
    finally:
        let_go.set()
        watching.cancel()
        await engine.close()


async def test_a_text_that_repeats_itself_is_ended() -> None:
    from worker.engines.transformers import TransformersEngine

    engine = TransformersEngine(make_settings(dtype="float32", max_model_len=1024))
    await engine.start()
    engine._model.generation_config.eos_token_id = [5]  # a token that it never says: it finds no end, and loops
    message = {"role": "user", "content": [{"type": "text", "text": "x"}]}
    sampling = Sampling(temperature=0, repetition_penalty=0.05, max_tokens=200)
    try:
        answer = await engine.generate([message], sampling, request_id="a")
    finally:
        await engine.close()

    assert answer.output.finish_reason == "repetition"
    assert answer.output.usage.output_tokens < 200
