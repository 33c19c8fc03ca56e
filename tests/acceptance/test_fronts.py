"""Two processes in front of one vLLM: they share its batch, say what one says, and none of it outlives the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import psutil
import pytest

from demo.scenes import scene
from shared.sampling import Sampling
from shared.settings import Settings
from sightline.stack import DEMO_ENGINE
from worker.engines import create_engine
from worker.engines.base import EngineDead, Generation
from worker.engines.remote import RemoteEngine
from worker.media.gate import media_part
from worker.media.pictures import Bounds, decode_image

pytestmark = pytest.mark.timeout(600)
N_JOBS = 12
SHORT = Sampling(temperature=0, max_tokens=48)
#: The model says less than a caption of its own accord; a list must have its many numbers.
LIST = {"name": "numbers", "schema": {"type": "array", "items": {"type": "integer"}, "minItems": 200}}
LONG = Sampling.model_validate(
    {"temperature": 0, "max_tokens": 400, "response_format": {"type": "json_schema", "json_schema": LIST}}
)


def conversation(engine: RemoteEngine, seed: int) -> list[dict[str, Any]]:
    limits = engine.limits
    picture = decode_image(scene(seed).png(), Bounds(limits.factor_px, limits.image_min_px, limits.image_max_px, 10**8))
    return [{"role": "user", "content": [media_part(picture), {"type": "text", "text": "Describe this image."}]}]


async def ask(engine: RemoteEngine, seeds: Sequence[int], sampling: Sampling = SHORT) -> list[Generation]:
    asked = (engine.generate(conversation(engine, seed), sampling, request_id=f"job{seed}-1") for seed in seeds)
    return await asyncio.gather(*asked)


@pytest.fixture
async def engine(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RemoteEngine]:
    for name, value in DEMO_ENGINE.items():
        monkeypatch.setenv(name, value)
    made = create_engine(Settings(engine="vllm", engine_fronts=2))
    assert isinstance(made, RemoteEngine)
    await made.start()
    yield made
    left = processes(made)
    await made.close()
    assert len(left) >= 2
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in left)


def processes(engine: RemoteEngine) -> list[psutil.Process]:
    fronts = [psutil.Process(front.popen.pid) for front in engine._fronts if front.popen]
    return [process for front in fronts for process in (front, *front.children(recursive=True))]


async def test_two_fronts_fill_one_batch(engine: RemoteEngine) -> None:
    seeds = range(990_000, 990_000 + N_JOBS)
    one_by_one = [(await ask(engine, [seed]))[0] for seed in seeds]
    asking = asyncio.create_task(ask(engine, seeds))
    await asyncio.sleep(0.001)
    assert [len(front.requests) for front in engine._fronts] == [N_JOBS // 2, N_JOBS // 2]
    assert [answer.token_ids for answer in await asking] == [answer.token_ids for answer in one_by_one]
    asking = asyncio.create_task(ask(engine, seeds, LONG))
    async with asyncio.timeout(60):
        while (await engine.health()).running_peak <= N_JOBS // 2:  # noqa: ASYNC110  # it is another process's state
            await asyncio.sleep(0.05)
    (core,) = (p for p in processes(engine) if "EngineCore" in " ".join((p.name(), *p.cmdline())))
    core.kill()
    with pytest.raises(EngineDead):
        await asyncio.wait_for(asking, 60)
    assert not (await engine.health()).alive
