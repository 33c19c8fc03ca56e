"""How vLLM is set up on a machine without a GPU, and on one with."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from worker.engines import vllm_setup


@pytest.mark.parametrize(("gpus", "place"), [(0, "here"), (1, "elsewhere")])
def test_without_a_gpu_no_other_process_imports_vllm_to_look_at_the_model(
    gpus: int, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = list[str]()
    registry = SimpleNamespace(_run_in_subprocess=lambda _: looked.append("elsewhere"))
    monkeypatch.setitem(sys.modules, "vllm.model_executor.models", SimpleNamespace(registry=registry))
    monkeypatch.setattr(vllm_setup, "has_gpu", lambda: gpus > 0)

    vllm_setup.inspect_model_here()
    registry._run_in_subprocess(lambda: looked.append("here"))

    assert looked == [place]
