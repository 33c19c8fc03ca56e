"""The fleet's one clock, Redis's: it decides every age, deadline and expiry."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import structlog
from redis.exceptions import RedisError

from shared.store.connection import Client
from shared.store.skew import MAX_SKEW_S, is_off, remark

__all__ = ["MAX_SKEW_S", "Watch", "is_off", "now_s", "remark", "skew_s"]

log = structlog.get_logger()

LOOK_EVERY_S = 30.0


async def now_s(redis: Client) -> float:
    """Ask Redis for the time, Unix seconds.

    Raises:
        RedisError: Redis is away; whoever wanted to decide by the time waits.
    """
    seconds, micros = await redis.ask("TIME")
    return int(seconds) + int(micros) / 1_000_000


async def skew_s(redis: Client) -> float:
    """Measure how far this host's clock is ahead of Redis's, seconds; the round trip's half is taken off.

    Raises:
        RedisError: Redis is away.
    """
    began = time.monotonic()
    there = await now_s(redis)
    return time.time() - (time.monotonic() - began) / 2 - there


class Watch:
    """Compares a process's clock with Redis's now and then, and says in the log when it is off, and when it is right again."""

    def __init__(self, redis: Client) -> None:
        """Take the clock for right until it was measured."""
        self._redis = redis
        self.skew_s = 0.0

    async def keep(self) -> None:
        """Look until cancelled."""
        while True:
            with suppress(RedisError, OSError):
                await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> float:
        """Measure now.

        Returns:
            How far this host's clock is ahead, seconds.

        Raises:
            RedisError: Redis is away.
        """
        was_off, self.skew_s = is_off(self.skew_s), await skew_s(self._redis)
        if is_off(self.skew_s) != was_off:
            say = log.info if was_off else log.warning
            say("clock.right" if was_off else "clock.off", skew_s=round(self.skew_s, 1))
        return self.skew_s
