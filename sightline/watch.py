"""What the workers of one command say of themselves on Redis."""

from __future__ import annotations

import json
import socket
from collections.abc import Collection
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from shared.store.connection import PREFIX

_TIMEOUT_S = 3.0


def notices(redis_url: str, pids: Collection[int]) -> list[dict[str, Any]] | None:
    """Read the notices of these workers; None while Redis does not answer.

    Args:
        redis_url: where they stand.
        pids: of the workers' processes. A notice outlives its worker for seconds, and those of other machines stand there too.
    """
    waits = {"socket_connect_timeout": _TIMEOUT_S, "socket_timeout": _TIMEOUT_S, "retry": Retry(NoBackoff(), 0)}
    ours = [f"{PREFIX}worker:{socket.gethostname()}:{pid}-" for pid in pids]
    try:
        with Redis.from_url(redis_url, decode_responses=True, **waits) as redis:
            keys = [key for key in redis.scan_iter(match=f"{PREFIX}worker:*", count=1000) if str(key).startswith(tuple(ours))]
            values = redis.mget(keys) if keys else []
    except (RedisError, OSError):
        return None
    return [json.loads(value) for value in values if value]


def waited_for(redis_url: str, pids: Collection[int]) -> str:
    """Say how many jobs workers that leave still wait for."""
    jobs = sum(int(notice["jobs_in_flight"]) for notice in notices(redis_url, pids) or [])
    return f"stopping: waiting for {jobs} job{'' if jobs == 1 else 's'}" if jobs else "stopping"
