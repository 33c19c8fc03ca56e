"""The plumbing to Redis: the connection, the prefix of all keys, the scripts."""

from __future__ import annotations

from collections.abc import Awaitable
from importlib import resources
from typing import Any

import uuid_utils
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.driver_info import DriverInfo

from shared.jobs import TRANSITIONS
from shared.settings import Settings

PREFIX = "sightline:"


def new_id(kind: str) -> str:
    """Make an id that sorts by time, such as ``job_0198c0de...``."""
    return f"{kind}_{uuid_utils.uuid7().hex}"


def connect(settings: Settings) -> Redis:
    """Open the pool to Redis: short time-outs, since a request waits behind each call.

    Where all connections are in use, a call waits for one; redis-py's plain pool would fail it at the hundredth.
    """
    pool = BlockingConnectionPool.from_url(
        settings.redis_url,
        max_connections=100,
        decode_responses=True,
        socket_timeout=10,
        socket_connect_timeout=3,
        socket_keepalive=True,
        health_check_interval=15,
        driver_info=DriverInfo(),  # made once: redis-py reads its version from disk for every connection otherwise, in 1 ms
        retry=Retry(ExponentialBackoff(cap=1, base=0.05), 3),
    )
    return Redis.from_pool(pool)


def read_script(name: str) -> str:
    """Give a script as Redis runs it: with the table of legal moves and the common part in front.

    A Redis that is full refuses new jobs only: whatever ends, renews or clears away may run over its memory's limit.
    """
    first = "#!lua" if name == "submit" else "#!lua flags=allow-oom"
    moves = ", ".join(
        f"{source} = {{{', '.join(f'{target} = true' for target in targets)}}}" for source, targets in TRANSITIONS.items()
    )
    folder = resources.files("shared") / "scripts"
    parts = (first, f"local MOVES = {{{moves}}}", *((folder / f"{part}.lua").read_text() for part in ("common", name)))
    return "\n".join(parts)


async def reply(value: Awaitable[Any] | Any) -> Any:
    """Await a reply that redis-py types as either a value or an awaitable."""
    return await value


class Records:
    """One kind of records. Methods may raise ``redis.exceptions.RedisError`` while Redis is away: the gateway's 503."""

    scripts: tuple[str, ...] = ()  #: names of the scripts in use

    def __init__(self, redis: Redis, *, prefix: str = PREFIX) -> None:
        """Use an open client; its replies must be decoded strings."""
        self.redis = redis
        self._prefix = prefix
        self._scripts = {name: redis.register_script(read_script(name)) for name in self.scripts}

    async def _run(self, name: str, *args: str | float) -> Any:
        return await self._scripts[name](keys=[self._prefix], args=list(args))

    def _key(self, name: str) -> str:
        return self._prefix + name
