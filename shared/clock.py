"""The fleet's one clock, Redis's: whatever is decided by an age, a deadline or an expiry is decided by it."""

from __future__ import annotations

import time

from shared.database import Client

#: A host whose clock differs more has no working NTP; signatures are refused at 300 s.
MAX_SKEW_S = 30.0


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


def is_off(skew_s: float) -> bool:
    """Whether a clock that differs so much is wrong: its host neither sweeps nor expires anything."""
    return abs(skew_s) > MAX_SKEW_S
