"""What all kinds of records in Redis have in common: their keys, their scripts, reading one and listing them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog
from redis.exceptions import ResponseError

from shared.errors import InvalidRequest, RecordUnreadable
from shared.store.connection import Client, reply
from shared.store.ids import made_ms
from shared.store.lua import read_library

log = structlog.get_logger()

T = TypeVar("T")

#: What Redis answers where the library is not there: it has just been started, or never saw this version.
NO_FUNCTION = "Function not found"


def _unreadable(name: str, error: Exception) -> RecordUnreadable:
    log.error("record.unreadable", record=name, error=type(error).__name__)  # its text has the client's
    return RecordUnreadable()


class Records:
    """One kind of records. Methods raise ``redis.exceptions.RedisError`` while Redis is away; the gateway answers 503 then."""

    lasting: tuple[str, ...] = ()  #: scripts by which a client is promised something, see :meth:`Client.ask_lasting`

    def __init__(self, redis: Client) -> None:
        """Use an open client; its replies must be decoded strings."""
        self.redis = redis
        self._prefix = redis.prefix
        self._library = read_library(webhook_backlog=redis.webhook_backlog)

    async def _run(self, name: str, *args: str | float) -> Any:
        ask = self.redis.ask_lasting if name in self.lasting else self.redis.ask
        command = "FCALL", self._library.function(name), 1, self._prefix, *args
        try:
            return await ask(*command)
        except ResponseError as error:
            if str(error) != NO_FUNCTION:
                raise
        async with self.redis.loading:
            if not await reply(self.redis.function_list(self._library.name)):
                await reply(self.redis.function_load(self._library.text, replace=True))
        return await ask(*command)

    async def _record(self, name: str, parse: Callable[[dict[str, str]], T]) -> T | None:
        """Read a hash, and make of it what it stands for; None where there is none.

        Raises:
            RecordUnreadable: it is damaged, or another version of this service wrote it. That is logged.
        """
        try:
            record = await self.redis.ask("HGETALL", self._key(name))
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            raise _unreadable(name, error) from error
        return self._parsed(name, record, parse)

    def _parsed(self, name: str, record: dict[str, str], parse: Callable[[dict[str, str]], T]) -> T | None:
        """Make of a hash that was read what it stands for; None where there is none.

        Raises:
            RecordUnreadable: as of :meth:`_record`.
        """
        try:
            return parse(record) if record else None
        except (LookupError, TypeError, ValueError, RecursionError) as error:
            raise _unreadable(name, error) from error

    async def _list(
        self,
        index: str,
        read: Callable[[str], Awaitable[T | None]],
        *,
        limit: int,
        after: str | None,
        newest_first: bool = True,
        unit_ms: int = 1,
    ) -> tuple[list[T], bool]:
        """Give a page of the records whose ids stand in an index; what is gone or cannot be read is left out.

        Args:
            index: name of a sorted set, id → when it was made.
            read: gives an id's record, as :meth:`_record` does, or None to leave it out.
            limit: most records to give.
            after: id of the last one of the page before. Where it is gone by now, its id tells where it stood.
            newest_first: or the oldest.
            unit_ms: what one stands for in the index's scores.

        Returns:
            The records, and whether there are more.

        Raises:
            InvalidRequest: nothing tells where ``after`` stood.
        """
        found: list[T] = []
        made = made_ms(after) if after else None
        place: tuple[str, str | float] = after or "", "" if made is None else made // unit_ms
        while len(found) <= limit:
            order = "newest" if newest_first else "oldest"
            page = await self._run("list_page", index, *place, unit_ms, limit + 1, order)
            if page is None:
                raise InvalidRequest("after: nothing by that id is in this list", param="after")
            ids, scores = page[::2], page[1::2]
            answers = await asyncio.gather(*map(read, ids), return_exceptions=True)
            for answer in answers:
                if isinstance(answer, BaseException) and not isinstance(answer, RecordUnreadable):
                    raise answer
                if answer is not None and not isinstance(answer, BaseException):
                    found.append(answer)
            if len(ids) <= limit:
                break
            place = ids[-1], scores[-1]
        return found[:limit], len(found) > limit

    def _key(self, name: str) -> str:
        return self._prefix + name


def flat(facts: dict[str, Any]) -> list[Any]:
    """Lay fields out as a script takes them: names and values in turn."""
    return [part for pair in facts.items() for part in pair]
