"""Small runs of the proofs: parts are killed as processes, nothing is lost. ``python -m tests.openai`` has the large ones."""

from __future__ import annotations

from pathlib import Path

from tests.openai.batch import batch
from tests.openai.midstream import midstream


async def test_a_batch_survives_its_workers_and_its_gateway(tmp_path: Path) -> None:
    figures = await batch(tmp_path, n=90, kill_every_s=1, worker_kills=1, gateway_kills_at=(0.4,))
    assert figures["ok"], figures
    assert figures["worker_kills"] == 1
    assert figures["gateway_kills"] == 1


async def test_a_stream_survives_its_worker_or_says_that_it_cannot(tmp_path: Path) -> None:
    figures = await midstream(tmp_path, n=1, n_differing=1)
    assert figures["ok"], figures
