"""Small runs of the proofs: parts are killed as processes, nothing is lost. ``python -m tests.openai`` has the large ones."""

from __future__ import annotations

from pathlib import Path

from tests.openai.batch import batch
from tests.openai.midstream import midstream
from tests.openai.runners import runners


async def test_a_batch_survives_its_workers_its_gateway_and_its_runner(tmp_path: Path) -> None:
    figures = await batch(tmp_path, n=90, kill_every_s=1, worker_kills=1, gateway_kills_at=(0.4,))
    assert figures["ok"], figures
    assert figures["worker_kills"] == 1
    assert (figures["gateway_kills"], figures["runner_kills"]) == (1, 1)


async def test_each_line_stands_in_one_file_whatever_happens_to_the_runners(tmp_path: Path) -> None:
    figures = await runners(tmp_path, n=150, n_batches=3, fault_every_s=1.5, faults_each=3, slow_s=1)
    assert figures["ok"], figures
    assert {"kill", "stop"} <= figures["faults"].keys()


async def test_a_stream_survives_its_worker_or_says_that_it_cannot(tmp_path: Path) -> None:
    figures = await midstream(tmp_path, n=1, n_differing=1)
    assert figures["ok"], figures
