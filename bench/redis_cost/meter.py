"""Reads from Redis itself what was spent: commands, CPU, memory, bytes of the log of writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from redis import Redis

#: What the measuring itself asks.
OWN = frozenset({"info", "config", "flushall", "ping", "client", "hello", "select", "memory", "del", "scan"})


@dataclass(frozen=True)
class Spent:
    """What so many jobs took, for each of them."""

    commands: float  #: those in scripts, too
    server_us: float  #: CPU of the server's process
    aof_bytes: float


class Meter:
    """Takes the difference between two looks."""

    def __init__(self, redis: Redis) -> None:
        """Look at this server; nothing but what is measured may use it."""
        self._redis = redis
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self._redis.config_resetstat()
        self._cpu_s, self._aof_bytes = self._look()

    def _look(self) -> tuple[float, int]:
        cpu = self._redis.info("cpu")
        return cpu["used_cpu_sys"] + cpu["used_cpu_user"], self._redis.info("persistence")["aof_current_size"]

    def spent(self, n: int) -> Spent:
        """Say what was spent since the beginning for each of n jobs."""
        stats = self._redis.info("commandstats")
        calls = {name.removeprefix("cmdstat_").partition("|")[0]: facts["calls"] for name, facts in stats.items()}
        cpu_s, aof_bytes = self._look()
        commands = sum(n_calls for name, n_calls in calls.items() if name not in OWN)
        return Spent(commands / n, (cpu_s - self._cpu_s) * 1e6 / n, (aof_bytes - self._aof_bytes) / n)


def used_bytes(redis: Redis) -> int:
    """Say how much memory the data take; buffers of clients and of the log are left out as far as Redis tells."""
    info = redis.info("memory")
    return cast("int", info["used_memory"] - info.get("mem_clients_normal", 0) - info.get("mem_aof_buffer", 0))


def empty_out(redis: Redis) -> None:
    """Remove all keys, and wait until their memory is free: redis-py's own ``flushall`` leaves that for later."""
    redis.execute_command("FLUSHALL", "SYNC")
