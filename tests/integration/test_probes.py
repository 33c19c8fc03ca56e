"""The probes of the manifests, run as a kubelet runs them, against real processes in each phase."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from shared.settings import ROOT, Settings
from tests.integration.conftest import until
from tests.integration.parts import Part, part_of, variables

pytestmark = pytest.mark.timeout(400)  # a probe is a process, and is asked again and again
LONG_S = "3600"


def container(role: str) -> dict[str, Any]:
    documents = yaml.safe_load_all((ROOT / f"deploy/kubernetes/base/{role}.yaml").read_text())
    [found] = [one["spec"]["template"]["spec"]["containers"][0] for one in documents if one["kind"] == "Deployment"]
    return dict(found)


def says(settings: Settings, probe: str, code: int, phase: str) -> Callable[[], Awaitable[bool]]:
    """Make a question: does this probe of a worker end with that code, and name the phase?"""
    command = container("worker")[probe]["exec"]["command"]

    async def ask() -> bool:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command[1:],
            cwd=ROOT,
            env={**os.environ, **variables(settings)},
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
        return (process.returncode, said.decode().strip()) == (code, phase)

    return ask


async def get(gateway: Part, path: str) -> int:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as http:
        try:
            return (await http.get(path)).status_code
        except httpx.TransportError:
            return 0


async def test_probes_of_a_worker_and_a_gateway_tell_the_phase(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings.model_copy(update={"lease_s": 5.0})  # a notice lasts as long
    assert container("worker")["startupProbe"]["exec"] == container("worker")["readinessProbe"]["exec"]
    monkeypatch.setenv("DOUBLE_LOAD_S", LONG_S)
    takes_jobs = container("gateway")["readinessProbe"]["httpGet"]["path"]
    with part_of("gateway", settings, tmp_path) as gateway, part_of("jobs", settings, tmp_path):
        await until(says(settings, "startupProbe", 1, "loading"), timeout_s=120)

        async def answers() -> bool:
            return await get(gateway, takes_jobs) == httpx.codes.OK

        await until(answers, timeout_s=120)  # while the model loads
        assert await get(gateway, "/readyz") == httpx.codes.SERVICE_UNAVAILABLE
    monkeypatch.setenv("DOUBLE_LOAD_S", "0")
    with part_of("jobs", settings, tmp_path) as worker:
        await until(says(settings, "readinessProbe", 0, "ready"), timeout_s=120)
        worker.process.send_signal(signal.SIGSTOP)  # it does nothing any more, as one whose machine stands still
        try:
            await until(says(settings, "readinessProbe", 1, "no worker"), timeout_s=120)
        finally:
            worker.process.send_signal(signal.SIGCONT)
