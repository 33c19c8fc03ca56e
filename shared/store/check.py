"""Asks Redis whether it may be trusted with accepted jobs; every part does before it begins."""

from __future__ import annotations

import asyncio
from typing import cast

from redis.exceptions import BusyLoadingError, RedisError, ResponseError

from shared.errors import StoreUnsafe
from shared.store.connection import Client
from shared.store.data_version import KEY, MARK, SCHEMA, schema_problem
from shared.store.safety import CONFIG_NAMES, PROBE, redis_problems
from shared.store.trouble_log import log_trouble

RETRY_S = 1.0


class StoreCheck:
    """Looks at a Redis."""

    def __init__(self, redis: Client) -> None:
        """Use an open client."""
        self._redis = redis
        self._tells_config = True

    async def until_safe(self) -> None:
        """Wait for a Redis that is away.

        Raises:
            StoreUnsafe: it is there, and could lose jobs, or has data of another version.
        """
        while True:
            try:
                return await self.check_safety()
            except RedisError as error:
                log_trouble(error, chore="start")
                await asyncio.sleep(RETRY_S)

    async def check_safety(self) -> None:
        """Refuse a Redis that forgets or evicts jobs, or whose data are of another version.

        Raises:
            StoreUnsafe: what is wrong and how to mend it.
            RedisError: it is away, or still reading its data.
        """
        info = await self._redis.info()
        if info.get("loading"):  # it says that AOF is off while it reads it
            msg = "Redis is reading its data"
            raise BusyLoadingError(msg)
        config: object = {}
        if self._tells_config:
            try:
                config = await self._redis.config_get(*CONFIG_NAMES)
            except ResponseError:  # a managed Redis, or a user's rights, may not let it say; INFO then decides
                self._tells_config = False
        if problems := redis_problems(info, cast("dict[str, object]", config)):
            raise StoreUnsafe("; ".join(f"{problem} ({fix})" for problem, fix in problems))
        key = self._redis.prefix + KEY
        found = await self._redis.ask("GET", key) or await self._redis.ask("EVAL", MARK, 1, key, SCHEMA)
        if problem := schema_problem(found, self._redis.prefix):
            raise StoreUnsafe(problem)

    async def probe(self) -> None:
        """Ask whether a job would be taken now.

        Raises:
            RedisError: why it would not.
        """
        await self._redis.ask_lasting("EVAL", PROBE, 1, self._redis.prefix)
