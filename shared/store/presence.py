"""Each part says that it runs, and when it leaves; one that is gone without a word has died."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from contextlib import suppress
from functools import cache

from redis.exceptions import RedisError

from shared.settings import Settings
from shared.store.address import sync_client
from shared.store.connection import Client
from shared.store.parts import BEAT_S, LAPSE_S, MEMORY_S, PARTS, Found
from shared.store.records import Records
from shared.store.trouble_log import log_trouble

TIMEOUT_S = 3.0


@cache
def _process() -> str:
    return f"{socket.gethostname().replace(' ', '-')} {os.getpid()}-{secrets.token_hex(4)}"


class Presence(Records):
    """Keys: ``parts``, part → when it last said that it is there, ms by Redis's clock."""

    def __init__(self, redis: Client, kind: str) -> None:
        """Speak for this process.

        Args:
            redis: an open client.
            kind: of part, one of :data:`shared.store.parts.NAMES`.
        """
        super().__init__(redis)
        self._member = f"{kind} {_process()}"

    async def keep(self) -> None:
        """Say it until cancelled."""
        while True:
            try:
                await self._run("note_presence", self._member, int(1000 * LAPSE_S), int(1000 * MEMORY_S))
            except (RedisError, OSError) as error:
                log_trouble(error, chore="presence")
            await asyncio.sleep(BEAT_S)

    async def leave(self) -> None:
        """Take leave: this part has not died."""
        with suppress(RedisError, OSError):
            await self.redis.ask("ZREM", self._key(PARTS), self._member)

    async def look(self) -> Found:
        """Read what the parts have left.

        Raises:
            RedisError: Redis is away.
        """
        async with self.redis.pipeline(transaction=False) as pipe:
            Found.ask(pipe, self._prefix)
            return Found.read(await pipe.execute())


def begin(settings: Settings, kind: str) -> None:
    """Say that a part is there before it can start its loop, so that one that fails in its start is seen to have died."""
    with suppress(RedisError, OSError), sync_client(settings, timeout_s=TIMEOUT_S) as client:
        seconds, micros = client.time()
        client.zadd(settings.redis_prefix + PARTS, {f"{kind} {_process()}": int(1000 * seconds + micros / 1000)})


def end(settings: Settings, kind: str, *, died: bool = False) -> None:
    """Take leave of a part whose loop is no more.

    Args:
        settings: where Redis is.
        kind: as for :class:`Presence`.
        died: something of this process ended as it should not; that is remembered, as of one more part.
    """
    with suppress(RedisError, OSError), sync_client(settings, timeout_s=TIMEOUT_S) as client:
        if died:
            gone_ms = int(1000 * (client.time()[0] - LAPSE_S - 1))
            client.zadd(settings.redis_prefix + PARTS, {f"{kind} {_process()}-{secrets.token_hex(4)}": gone_ms})
        else:
            client.zrem(settings.redis_prefix + PARTS, f"{kind} {_process()}")
