"""The connection to Redis, whose commands share round trips."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar, cast

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import DataError

from shared.settings import Settings
from shared.store.autopipeline import AutoPipeline
from shared.store.key_names import PREFIX
from shared.store.notifier import Notifier
from shared.store.pool import PackedConnection, Pool, make_pool
from shared.store.trouble_log import remember_prefix

T = TypeVar("T")

#: Channels on which the scripts publish: the ends of jobs, and whatever happens to a job or in an owner's feed.
FINALS, NEWS = "finals", "news"
SETTLE_S = 5.0  #: what is under way when a client is closed gets so long
#: Replicas that must have a job before its 202, where the settings ask for it, and how long they are waited for.
COPIES, COPIES_MS = 1, 500
#: A write behind all others: replicas that have it have those, too. It may run over a full Redis's limit, as ends do.
MARK = "#!lua flags=allow-oom\nreturn redis.call('SET', KEYS[1], 1)"
#: Commands that change nothing: those of one trip that are alike share an answer.
READS = frozenset({"EXISTS", "HEXISTS", "HGET", "HGETALL", "HMGET", "XRANGE", "XREAD", "XREVRANGE"})


def _flaw(command: tuple[str | float, ...]) -> Exception | None:
    """Say why a command cannot be written."""
    try:
        PackedConnection.pack(*command)
    except (DataError, ValueError) as error:  # half a surrogate pair is a UnicodeError, and with it a ValueError
        return error
    return None


class NotReplicated(Disconnected):
    """What was written may be lost with the primary: too few replicas have it. It stands there, and can be asked for again."""

    def __init__(self, answer: Any, ident: str | None = None) -> None:
        """Keep what the command answered, and whose record it is, where that has an id."""
        super().__init__("too few replicas of Redis have it")
        self.answer, self.ident = answer, ident


class Client(Redis):
    """A client whose commands can share round trips, see :meth:`ask`."""

    prefix = PREFIX  #: before every key and channel
    webhook_backlog: int  #: of the settings; the scripts know it
    copies = 0  #: replicas that must have what :meth:`ask_lasting` wrote

    @cached_property
    def loading(self) -> asyncio.Lock:
        """Whoever misses our functions waits here: that one of them puts them there is enough, and takes Redis some ms."""
        return asyncio.Lock()

    @cached_property
    def _autopipeline(self) -> AutoPipeline[tuple[str | float, ...]]:
        return AutoPipeline(self._pipe)

    @cached_property
    def _lasting(self) -> AutoPipeline[tuple[str | float, ...]]:
        return AutoPipeline(self._pipe_lasting)

    @cached_property
    def _gathered(self) -> list[AutoPipeline[Any]]:
        return []

    def gather(self, travel: Callable[[list[T]], Awaitable[Sequence[Any]]]) -> AutoPipeline[T]:
        """Let calls of a kind leave together, see :class:`AutoPipeline`; they are settled before the client is closed."""
        self._gathered.append(AutoPipeline(travel))
        return self._gathered[-1]

    @property
    def pool(self) -> Pool:
        """The connections."""
        return cast("Pool", self.connection_pool)

    @cached_property
    def notifier(self) -> Notifier:
        """What the scripts tell, for everybody in this process."""
        return Notifier(self, self.prefix + FINALS, self.prefix + NEWS)

    async def ask(self, *command: str | float) -> Any:
        """Send a command. Those of many requests at a time share a round trip: it costs more than what is in it.

        Those that only read share the answer, too, where they ask the same; so it is not to be changed.
        """
        return await self._autopipeline.send(command)

    async def ask_lasting(self, *command: str | float) -> Any:
        """Send a write that a client is promised to last, or a repeat of one.

        Such commands have trips of their own, since replicas may be slow.

        Raises:
            NotReplicated: it was done, but too few replicas say that they have it.
        """
        return await (self._lasting if self.copies else self._autopipeline).send(command)

    async def _pipe_lasting(self, commands: list[tuple[str | float, ...]]) -> Sequence[Any]:
        # On another connection, or where this one wrote nothing, as a repeat may, WAIT would say at once that all is well.
        mark, wait = ("EVAL", MARK, 1, self.prefix + "lasting"), ("WAIT", self.copies, COPIES_MS)
        *answers, marked, copies = await self._pipe([*commands, mark, wait])
        if isinstance(marked, Exception):
            return [answer if isinstance(answer, Exception) else marked for answer in answers]
        if isinstance(copies, int) and copies >= self.copies:
            return answers
        self.pool.drop()  # a primary without replicas may be none any more
        return [answer if isinstance(answer, Exception) else NotReplicated(answer) for answer in answers]

    async def _pipe(self, commands: list[tuple[str | float, ...]]) -> Sequence[Any]:
        """Send commands in one round trip; one that cannot be written fails alone.

        All are written before the first byte is sent, so what then fails for one of them has happened to none.
        """
        try:
            return await self._send(commands)
        except (DataError, ValueError):
            flaws = [_flaw(command) for command in commands]
            if not any(flaws):
                raise
            answers = iter(await self._send([command for command, flaw in zip(commands, flaws, strict=True) if not flaw]))
            return [flaw or next(answers) for flaw in flaws]

    async def _send(self, commands: list[tuple[str | float, ...]]) -> Sequence[Any]:
        reads: dict[tuple[str | float, ...], int] = {}
        places = list[int]()
        async with self.pipeline(transaction=False) as pipe:
            for command in commands:
                place = len(pipe)
                if command[0] in READS:
                    place = reads.setdefault(command, place)
                if place == len(pipe):
                    pipe.execute_command(*command)
                places.append(place)
            answers = await pipe.execute(raise_on_error=False)
        return [answers[place] for place in places]

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001  # its signature
        """Close, once the round trip under way is back: it would connect anew, and nobody would close that connection."""
        await self.notifier.aclose()
        for each in self._gathered:
            await each.settle(SETTLE_S)
        await self._autopipeline.settle(SETTLE_S)
        await self._lasting.settle(SETTLE_S)
        await super().aclose(close_connection_pool)


def connect(settings: Settings) -> Client:
    """Open the pool to Redis, see :func:`shared.store.pool.make_pool`."""
    client = cast("Client", Client.from_pool(make_pool(settings)))
    client.prefix = remember_prefix(settings.redis_prefix)
    client.webhook_backlog = settings.webhook_backlog
    client.copies = COPIES if settings.redis_durability == "replica" else 0
    return client


async def reply(value: Awaitable[Any] | Any) -> Any:
    """Await a reply that redis-py types as either a value or an awaitable."""
    return await value
