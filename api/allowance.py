"""What an API key may do and has left, as headers of its answers."""

from __future__ import annotations

from contextlib import suppress

from redis.exceptions import RedisError

from shared.store.api_keys import ApiKey, ApiKeys
from shared.store.usage import Usage


async def count_request(keys: ApiKeys, key: ApiKey) -> dict[str, str]:
    """Count a request, and give what the key's minute has left.

    Raises:
        RateLimited: the key has no request left in this minute.
    """
    allowance = await keys.count_request(key)
    if not allowance:
        return {}
    return {
        "x-ratelimit-limit-requests": str(allowance.limit),
        "x-ratelimit-remaining-requests": str(allowance.remaining),
        "x-ratelimit-reset-requests": f"{allowance.reset_s}s",
    }


async def left_today(usage: Usage, key: ApiKey) -> dict[str, str]:
    """Give what the key's day has left. An answer goes without, where Redis has just gone: what it tells has happened."""
    headers: dict[str, str] = {}
    if not key.has_quota:
        return headers
    with suppress(RedisError):
        left = await usage.left(key.id)
        of_day = {
            "jobs-day": (key.max_jobs_day, left.jobs),
            "vision-tokens-day": (key.max_vision_tokens_day, left.vision_tokens),
        }
        for name, (limit, remaining) in of_day.items():
            if limit and remaining is not None:
                headers |= {
                    f"x-ratelimit-limit-{name}": str(limit),
                    f"x-ratelimit-remaining-{name}": str(remaining),
                    f"x-ratelimit-reset-{name}": f"{left.reset_s}s",
                }
    return headers
