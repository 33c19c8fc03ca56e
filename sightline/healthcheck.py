"""Has a worker of this host its model loaded? The health check of the worker's container; exit code 0 says yes.

A worker tells what it is doing once a second, in a heartbeat on Redis that fades soon after the worker does.
"""

from __future__ import annotations

import asyncio
import socket
import sys

from redis.exceptions import RedisError

from shared.settings import Settings, load_settings
from shared.store.connection import connect
from shared.store.redis_errors import explain
from shared.store.workers import WorkerRegistry
from shared.variables import SettingsInvalid

#: The phases of a worker that does its work.
GOOD = {"ready", "draining"}


async def phases(settings: Settings, host: str) -> list[str]:
    """Read the phases of the workers on a host.

    Args:
        settings: where Redis is.
        host: its name, as ``hostname`` prints it.
    """
    redis = connect(settings)
    try:
        heartbeats = await WorkerRegistry(redis).workers()
    finally:
        await redis.aclose()
    return [str(heartbeat["phase"]) for heartbeat in heartbeats if str(heartbeat["name"]).rpartition(":")[0] == host]


def main() -> int:
    """Print the phases, for ``docker inspect``, and give the exit code."""
    try:
        settings = load_settings()
    except SettingsInvalid as error:
        print(error)
        return 1
    try:
        found = asyncio.run(phases(settings, socket.gethostname()))
    except RedisError as error:
        print(explain(error, settings.redis_prefix))
        return 1
    print(", ".join(found) or "no worker")
    return 0 if GOOD & set(found) else 1


if __name__ == "__main__":
    sys.exit(main())
