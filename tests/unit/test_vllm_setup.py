"""How vLLM is set up on a machine without a GPU, and on one with."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from shared.settings import Settings
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


@pytest.fixture
def torch_threads() -> Iterator[None]:
    import torch  # here, since each process of a run imports this file, and one of them runs the test

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("torch_threads")
def test_beside_a_gpu_the_engine_loads_with_some_threads_and_serves_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from vllm.utils.torch_utils import set_torch_threads_for_runtime

    monkeypatch.setattr(vllm_setup, "has_gpu", lambda: True)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as this process has it, which renders
    torch.set_num_threads(vllm_setup.LOADING_THREADS)  # as torch does at the start of the engine's process

    with vllm_setup.loading_threads():
        assert os.environ["OMP_NUM_THREADS"] == "4"
        set_torch_threads_for_runtime()  # as vLLM calls it there when the model is loaded
    served_with = torch.get_num_threads()

    assert served_with == 1
    assert os.environ["OMP_NUM_THREADS"] == "1"
    assert vllm_setup.FOR_LOADING_ONLY not in os.environ


@pytest.mark.parametrize(("gpus", "build", "hint"), [(0, "", True), (1, "", False), (0, "+cpu", False)])
def test_who_has_the_build_for_gpus_and_no_gpu_is_told_so(
    gpus: int, build: str, *, hint: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_setup, "has_gpu", lambda: gpus > 0)
    monkeypatch.setattr(vllm_setup, "version", lambda: f"0.32.0{build}")

    said = vllm_setup.reason(RuntimeError("Device string must not be empty"))

    assert "Device string must not be empty" in said
    assert ("--gpus all" in said) == hint


@pytest.mark.parametrize("kv_cache", ["auto", "fp8"])
def test_the_kv_cache_is_made_smaller_by_a_switch_of_its_own(kv_cache: str) -> None:
    arguments = vllm_setup.engine_arguments(Settings.model_validate({"quantization": "awq", "kv_cache_dtype": kv_cache}))

    assert (arguments["quantization"], arguments["kv_cache_dtype"]) == ("awq", kv_cache)


@pytest.mark.parametrize(("version", "gpus", "ours"), [("0.32.0", 1, 1), ("0.32.1", 1, 0), ("0.32.0", 0, 0)])
def test_our_scheduler_serves_on_a_gpu_and_in_the_version_that_it_knows(
    version: str, gpus: int, ours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_setup, "has_gpu", lambda: gpus > 0)
    monkeypatch.setattr(vllm_setup, "version", lambda: version)

    assert ("scheduler_cls" in vllm_setup.engine_arguments(Settings())) == (ours > 0)
