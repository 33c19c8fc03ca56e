"""The machine: its GPUs, its memory, the port of the gateway."""

from __future__ import annotations

import json
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from shared.settings import DEMO_MODEL
from sightline.ports import free_port, why_not
from sightline.probe import Probe, nvidia_driver
from sightline.state import running_up
from worker import gpus
from worker.media import memory_plan

if TYPE_CHECKING:
    from shared.settings import Settings

from sightline.checks.check import Check, Level

ANSWER_S, LONGEST_ANSWER = 2.0, 10_000  #: of whoever has the gateway's port: seconds, bytes


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
    plan = memory_plan.make_plan(settings, memory_plan.QWEN_IMAGE_MAX_PX, memory_plan.container_memory())
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


def port_line(settings: Settings) -> Check:
    """The gateway's port: free, or a Sightline of this user's listens there."""
    where = f"{settings.host}:{settings.port}"
    up = running_up(settings.state_dir)
    if up and up["url"] == settings.own_url:
        return Check("port", ok=True, detail=f"{where}: `sightline up` listens there, process {up['pid']}")
    problem = why_not(settings.host, settings.port)
    if problem and _is_gateway(settings.own_url):
        return Check("port", ok=True, detail=f"{where}: a gateway of Sightline's listens there")
    if problem:
        return Check("port", ok=False, detail=problem.partition(";")[0], fix=f"SIGHTLINE_PORT={free_port()}, or another one")
    return Check("port", ok=True, detail=f"{where} is free")


def _is_gateway(url: str) -> bool:
    """Say whether a gateway answers there: that of an `up` with another folder, or one in a container."""
    try:
        with closing(HTTPConnection(urlsplit(url).netloc, timeout=ANSWER_S)) as connection:
            connection.request("GET", urlsplit(url).path or "/")
            told = json.loads(connection.getresponse().read(LONGEST_ANSWER))
    except (OSError, HTTPException, ValueError):
        return False
    return isinstance(told, dict) and told.get("name") == "Sightline"
