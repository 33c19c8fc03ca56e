"""News over Redis's channels: one subscription wakes everybody in this process who waits."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.aio import cancel_all

log = structlog.get_logger()


class News:
    """Wakes those who wait for news about a subject. News can be missed: they look for themselves now and then all the same."""

    def __init__(self, redis: Redis, channel: str) -> None:
        """Use a channel whose messages are the names of subjects; it is subscribed to while somebody waits."""
        self._redis, self._channel = redis, channel
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._listening: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def about(self, subject: str) -> AsyncIterator[asyncio.Event]:
        """Give an event that is set whenever there may be news about the subject."""
        event = asyncio.Event()
        self._waiting[subject].add(event)
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen())
        try:
            yield event
        finally:
            self._waiting[subject].discard(event)
            if not self._waiting[subject]:
                del self._waiting[subject]
            if not self._waiting and self._listening is not None:
                ending, self._listening = self._listening, None
                await cancel_all({ending})

    async def _listen(self) -> None:
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                    await pubsub.subscribe(self._channel)
                    for subject in list(self._waiting):  # what was said before is past hearing
                        self._wake(subject)
                    async for message in pubsub.listen():
                        self._wake(message["data"])
            except (RedisError, OSError):
                log.warning("store.unreachable", chore="news")
            await asyncio.sleep(1.0)

    def _wake(self, subject: str) -> None:
        for event in self._waiting.get(subject, ()):
            event.set()
