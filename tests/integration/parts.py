"""The parts as processes of their own, each with a log that a test can read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from shared.settings import ROOT, Settings
from sightline.ports import free_port
from tests.integration.conftest import until
from tests.media import data_url, picture

COMMANDS = {
    "gateway": ["api.main"],
    "batches": ["api.batches.main"],
    "webhooks": ["worker.main", "webhooks"],
    "jobs": ["worker.main", "jobs"],
}
JOB = {"prompt": "请用中文描述一下这张图片", "images": [data_url(picture())]}


@dataclass
class Part:
    """A part that runs."""

    process: subprocess.Popen[bytes]
    log: Path
    url: str

    def said(self) -> str:
        """Give its log."""
        return self.log.read_text(errors="replace")

    async def get(self, path: str) -> dict[str, Any]:
        """Ask a gateway; nothing while it does not answer."""
        with suppress(httpx.TransportError):
            async with httpx.AsyncClient(base_url=self.url, timeout=30) as client:
                return dict((await client.get(path)).json())
        return {}

    async def describe(self) -> dict[str, Any]:
        """Have a job done, once a worker is ready."""
        await until(self._is_ready, timeout_s=60)
        async with httpx.AsyncClient(base_url=self.url, timeout=30) as client:
            submitted = (await client.post("/v1/jobs", json=JOB)).json()
        return await self.get(f"/v1/jobs/{submitted['id']}?wait=20")

    async def _is_ready(self) -> bool:
        return (await self.get("/readyz")).get("status") == "ok"


def variables(settings: Settings) -> dict[str, str]:
    """Give the environment of a part that has the settings that were given to these."""
    given = {name: getattr(settings, name) for name in settings.model_fields_set}

    def written(value: Any) -> str:
        if isinstance(value, SecretStr):
            return value.get_secret_value()
        return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

    return {f"SIGHTLINE_{name.upper()}": written(value) for name, value in given.items() if value is not None}


@contextmanager
def part_of(kind: str, settings: Settings, folder: Path) -> Iterator[Part]:
    """Run a part while the block runs.

    Args:
        kind: one of :data:`COMMANDS`.
        settings: what it is given.
        folder: for its log.
    """
    log, port = folder / f"{kind}.log", free_port()
    environment = {**os.environ, **variables(settings), "SIGHTLINE_LOG_JSON": "true", "SIGHTLINE_PORT": str(port)}
    with log.open("ab") as output:
        command = [sys.executable, "-m", *COMMANDS[kind]]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        yield Part(process, log, f"http://127.0.0.1:{port}")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()
