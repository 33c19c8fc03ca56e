"""What the workers of one command say of themselves on Redis."""

from __future__ import annotations

import json
import socket
from collections.abc import Collection
from typing import Any

from redis.exceptions import RedisError

from shared.settings import Settings
from shared.store.address import sync_client
from shared.store.parts import WORKER_INDEXES
from shared.store.redis_errors import explain

_TIMEOUT_S = 3.0


def heartbeats(settings: Settings, pids: Collection[int]) -> list[dict[str, Any]] | str:
    """Read the heartbeats of these workers; why Redis does not give them, while it does not.

    Args:
        settings: where they stand.
        pids: of the workers' processes. A heartbeat outlives its worker for seconds; other machines' stand there, too.
    """
    prefix, ours = settings.redis_prefix, [f"{socket.gethostname()}:{pid}-" for pid in pids]
    try:
        with sync_client(settings, timeout_s=_TIMEOUT_S, decode_responses=True) as redis:
            indexes = (redis.zrange(f"{prefix}{index}", 0, -1) for index in WORKER_INDEXES)
            names = dict.fromkeys(str(name) for found in indexes for name in found)
            keys = [f"{prefix}worker:{name}" for name in names if name.startswith(tuple(ours))]
            values = redis.mget(keys) if keys else []
    except (RedisError, OSError) as error:
        return str(explain(error, prefix))
    return [json.loads(value) for value in values if value]


def waited_for(settings: Settings, pids: Collection[int]) -> str:
    """Say how many jobs workers that leave still wait for."""
    known = heartbeats(settings, pids)
    jobs = 0 if isinstance(known, str) else sum(int(heartbeat["jobs_in_flight"]) for heartbeat in known)
    return f"stopping: waiting for {jobs} job{'' if jobs == 1 else 's'}" if jobs else "stopping"
