"""Waiting for changes in Redis: one subscription for the process wakes everybody in it who waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

import structlog
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import RedisError

from shared.aio import cancel_all
from shared.store.trouble_log import log_trouble

if TYPE_CHECKING:
    from shared.store.connection import Client

log = structlog.get_logger()

LOOK_EVERY_S = 5.0  #: news can be missed, so every subject is looked at this often all the same
LOOKS = 50  #: in one round trip: a few of them take the loop a millisecond, ten thousand at a time half a second
QUIET_S = 3.0  #: a connection on which nothing comes for so long is asked whether it lives, and given up after as long again
AGAIN_S = 1.0  #: between two attempts to subscribe

#: A command whose answer changes whenever there is news about a subject.
Look = tuple[str | int, ...]


async def hear(redis: Client, *channels: str) -> AsyncGenerator[tuple[str, str | None]]:
    """Give the messages of channels, each with its channel; None as the message after each new subscription.

    Keep-alive finds a peer that is gone; it takes asking to find one that stands still, or that a proxy has lost.

    Raises:
        RedisError: the connection is lost, or nothing answers on it.
    """
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(*channels)
        asked = False
        while True:
            message = await pubsub.get_message(timeout=QUIET_S)
            if message is None and asked:
                raise Disconnected("the subscription does not answer")
            if asked := message is None:
                await pubsub.ping()
            elif message["type"] == "message":
                yield message["channel"], message["data"]
            elif message["type"] == "subscribe":
                yield message["channel"], None


class Waiter:
    """Waits for news as long as its block runs. An asyncio.Event would do, and cost a kilobyte more for each of thousands."""

    __slots__ = ("_future", "_leave", "_news")

    def __init__(self, leave: Callable[[Waiter], None]) -> None:
        """Say what is to be done when the block is left."""
        self._leave, self._news = leave, False
        self._future: asyncio.Future[None] | None = None

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """End; nothing is awaited, which a cancellation could cut off."""
        self._leave(self)

    def wake(self) -> None:
        """Tell that there may be news."""
        self._news = True
        if self._future and not self._future.done():
            self._future.set_result(None)

    def clear(self) -> None:
        """Forget what was heard; to be called before one looks."""
        self._news = False

    async def wait(self) -> None:
        """Wait until there may be news since the last :meth:`clear`."""
        if not self._news:
            self._future = asyncio.get_running_loop().create_future()
            await self._future


@dataclass(eq=False)
class _Subject:
    look: Look
    waiting: set[Waiter] = field(default_factory=set)
    seen: Any = None  #: what the last look found

    def wake(self) -> None:
        for waiter in self.waiting:
            waiter.wake()


class Notifier:
    """Wakes those who wait for news about a subject.

    Messages can be missed, so subjects are looked at now and then: each once, however many wait for it, and they are woken only
    where something has changed. Its two tasks begin with the first who waits and end with :meth:`aclose`, so that whoever
    leaves only takes a name off a list: nothing is awaited that a cancellation could cut off.
    """

    def __init__(self, redis: Client, *channels: str) -> None:
        """Hear what is said on these channels; the messages are the names of subjects."""
        self._redis, self._channels = redis, channels
        self._subjects: dict[tuple[str, str], _Subject] = {}
        self._chores: set[asyncio.Task[None]] = set()
        self._missed = asyncio.Event()

    def about(self, channel: str, name: str, look: Look) -> Waiter:
        """Wait for news about the subject of that name while a block runs."""
        if not self._chores:
            self._chores = {asyncio.create_task(_for_ever(chore)) for chore in (self._listen, self._look_around)}
        subject = self._subjects.setdefault((channel, name), _Subject(look))

        def leave(waiter: Waiter) -> None:
            subject.waiting.discard(waiter)
            if not subject.waiting:
                self._subjects.pop((channel, name), None)

        waiter = Waiter(leave)
        subject.waiting.add(waiter)
        return waiter

    @property
    def n_waiting(self) -> int:
        """How many wait."""
        return sum(len(subject.waiting) for subject in self._subjects.values())

    async def aclose(self) -> None:
        """Hear no more; those who wait are not woken."""
        await cancel_all(self._chores)

    async def _listen(self) -> None:
        async with aclosing(hear(self._redis, *self._channels)) as messages:
            async for channel, name in messages:
                if name is None:  # what was said before is past hearing
                    self._missed.set()
                elif subject := self._subjects.get((channel, name)):
                    subject.wake()

    async def _look_around(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._missed.wait()
            self._missed.clear()
            every = iter(list(self._subjects.values()))
            while some := list(islice(every, LOOKS)):
                await self._look_at(some)

    async def _look_at(self, subjects: list[_Subject]) -> None:
        asked = (self._redis.ask(*subject.look) for subject in subjects)
        for subject, answer in zip(subjects, await asyncio.gather(*asked, return_exceptions=True), strict=True):
            if isinstance(answer, Exception) or answer != subject.seen:  # what went wrong they meet when they look themselves
                subject.seen = answer
                subject.wake()


async def _for_ever(chore: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await chore()
        except (RedisError, OSError) as error:
            log_trouble(error, chore="news")
        except Exception:
            log.exception("news.crashed")
        await asyncio.sleep(AGAIN_S)
