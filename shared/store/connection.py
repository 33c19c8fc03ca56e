"""The plumbing to Redis: the connection, the prefix of all keys, the scripts."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property
from importlib import resources
from typing import Any, TypeVar, cast

import structlog
import uuid_utils
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import DataError, NoScriptError, ResponseError

from shared.errors import InvalidRequest, RecordUnreadable
from shared.jobs import TRANSITIONS, Priority
from shared.settings import Settings
from shared.store.address import PREFIX
from shared.store.autopipeline import AutoPipeline
from shared.store.notifier import Notifier
from shared.store.pool import PackedConnection, Pool, make_pool

log = structlog.get_logger()

T = TypeVar("T")

#: What the scripts tell: the ends of jobs, and whatever happens to a job or in an owner's feed.
FINALS, NEWS = PREFIX + "finals", PREFIX + "news"
SETTLE_S = 5.0  #: what is under way when a client is closed gets so long
#: Replicas that must have what a client was told is accepted, where the settings ask for it, and how long they are waited for.
COPIES, COPIES_MS = 1, 500
#: A write behind all others: replicas that have it have those, too. It may run over a full Redis's limit, as ends do.
MARK = "#!lua flags=allow-oom\nreturn redis.call('SET', KEYS[1], 1)"
#: Commands that change nothing: those of one trip that are alike share an answer.
READS = frozenset({"EXISTS", "HEXISTS", "HGET", "HGETALL", "HMGET", "XRANGE", "XREAD", "XREVRANGE"})


def new_id(kind: str) -> str:
    """Make an id that sorts by time, such as ``job_0198c0de...``."""
    return f"{kind}_{uuid_utils.uuid7().hex}"


def made_ms(ident: str) -> int | None:
    """Tell when an id of :func:`new_id` was made, by the clock of whoever made it; None of every other text."""
    digits = ident[-32:]
    is_ours = re.fullmatch("[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}", digits)
    return int(digits[:12], 16) if is_ours else None


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

    webhook_backlog: int  #: of the settings; the scripts know it
    copies = 0  #: replicas that must have what :meth:`ask_lasting` wrote

    @cached_property
    def _autopipeline(self) -> AutoPipeline[tuple[str | float, ...]]:
        return AutoPipeline(self._pipe)

    @cached_property
    def _lasting(self) -> AutoPipeline[tuple[str | float, ...]]:
        return AutoPipeline(self._pipe_lasting)

    @property
    def pool(self) -> Pool:
        """The connections."""
        return cast("Pool", self.connection_pool)

    @cached_property
    def notifier(self) -> Notifier:
        """What the scripts tell, for everybody in this process."""
        return Notifier(self, FINALS, NEWS)

    async def ask(self, *command: str | float) -> Any:
        """Send a command. Those of many requests at a time share a round trip: it costs more than what is in it.

        Those that only read share the answer, too, where they ask the same; so it is not to be changed.
        """
        return await self._autopipeline.send(command)

    async def ask_lasting(self, *command: str | float) -> Any:
        """Send a command that writes something a client is then promised, also where it repeats what was written before.

        Such commands have trips of their own, since replicas may be slow.

        Raises:
            NotReplicated: it was done, but too few replicas say that they have it.
        """
        return await (self._lasting if self.copies else self._autopipeline).send(command)

    async def _pipe_lasting(self, commands: list[tuple[str | float, ...]]) -> Sequence[Any]:
        # On another connection, or where this one wrote nothing, as a repeat may, WAIT would say at once that all is well.
        mark, wait = ("EVAL", MARK, 1, PREFIX + "lasting"), ("WAIT", self.copies, COPIES_MS)
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
        await self._autopipeline.settle(SETTLE_S)
        await self._lasting.settle(SETTLE_S)
        await super().aclose(close_connection_pool)


def connect(settings: Settings) -> Client:
    """Open the pool to Redis, see :func:`shared.store.pool.make_pool`."""
    client = cast("Client", Client.from_pool(make_pool(settings)))
    client.webhook_backlog = settings.webhook_backlog
    client.copies = COPIES if settings.redis_durability == "replica" else 0
    return client


def read_script(name: str, *, webhook_backlog: int) -> str:
    """Give a script as Redis runs it: with what it takes from here and the parts that it needs in front.

    A script or part names the parts of ``scripts/lib`` that it needs in its first line, ``-- needs: queues, events``; ``base``
    goes without saying. What a script does not name costs it nothing: Lua makes each helper anew for every call.

    A Redis that is full refuses new jobs only: whatever ends, renews or clears away may run over its memory's limit. One that
    cannot write refuses what does not say that it only reads.
    """
    first = {"submit": "#!lua", "page": "#!lua flags=no-writes"}.get(name, "#!lua flags=allow-oom")
    moves = ", ".join(
        f"{source} = {{{', '.join(f'{target} = true' for target in targets)}}}" for source, targets in TRANSITIONS.items()
    )
    classes = ", ".join(f"'{priority}'" for priority in Priority)
    facts = (
        f"local MOVES = {{{moves}}}\nlocal CLASSES = {{{classes}}} -- the most urgent first\nlocal MAX_DUE = {webhook_backlog}"
    )
    script = (_SCRIPTS / f"{name}.lua").read_text()
    return "\n".join((first, facts, *_parts(script, ["base"]).values(), script))


_SCRIPTS = resources.files("shared.store") / "scripts"


def _parts(source: str, needed: Sequence[str] = ()) -> dict[str, str]:
    """Give the parts that a script needs, by name, each after those that it needs itself."""
    parts: dict[str, str] = {}
    line = source.partition("\n")[0]
    named = line.removeprefix("-- needs: ").split(", ") if line.startswith("-- needs: ") else []
    for name in (*needed, *named):
        text = (_SCRIPTS / "lib" / f"{name}.lua").read_text()
        for inner, inner_text in (*_parts(text).items(), (name, text)):
            parts.setdefault(inner, inner_text)
    return parts


async def reply(value: Awaitable[Any] | Any) -> Any:
    """Await a reply that redis-py types as either a value or an awaitable."""
    return await value


def _unreadable(name: str, error: Exception) -> RecordUnreadable:
    log.error("record.unreadable", record=name, error=type(error).__name__)  # its text has the client's
    return RecordUnreadable()


class Records:
    """One kind of records. Methods may raise ``redis.exceptions.RedisError`` while Redis is away: the gateway's 503."""

    scripts: tuple[str, ...] = ()  #: names of the scripts in use
    lasting: tuple[str, ...] = ()  #: those by which a client is promised something, see :meth:`Client.ask_lasting`

    def __init__(self, redis: Client, *, prefix: str = PREFIX) -> None:
        """Use an open client; its replies must be decoded strings."""
        self.redis = redis
        self._prefix = prefix
        names, backlog = ("page", *self.scripts), redis.webhook_backlog
        self._scripts = {name: redis.register_script(read_script(name, webhook_backlog=backlog)) for name in names}

    async def _run(self, name: str, *args: str | float) -> Any:
        script = self._scripts[name]
        ask = self.redis.ask_lasting if name in self.lasting else self.redis.ask
        command = "EVALSHA", script.sha, 1, self._prefix, *args
        try:
            return await ask(*command)
        except NoScriptError:  # a Redis that has just been started, or taken over
            await self.redis.script_load(script.script)
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
            page = await self._run("page", index, *place, unit_ms, limit + 1, order)
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
