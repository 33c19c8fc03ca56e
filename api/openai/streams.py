"""A job's text as it is generated, for streams that cannot take back what they have said."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from redis.exceptions import RedisError

from api.services import Services
from shared.errors import StoreUnavailable, StreamBroken
from shared.jobs import Job
from shared.store.event_log import Entry
from shared.store.trouble_log import log_trouble


class TextDiff:
    """What a stream has sent of a text that may begin again. Pure; a piece costs its own length, not that of the text."""

    def __init__(self) -> None:
        """Begin with nothing sent."""
        self._pieces = list[str]()  #: what was sent, in order; all of it is the first one while the text begins anew
        self._length = 0  #: of what was sent
        self._at = 0  #: how far the text that is generated now has come

    def restart(self) -> None:
        """The text begins again, as the job did on another worker."""
        self._pieces = ["".join(self._pieces)]
        self._at = 0

    def add(self, piece: str) -> str:
        """Take a piece of the text, and give what of it is new to the reader.

        Raises:
            StreamBroken: the text is no longer the one that the reader was sent.
        """
        known = piece[: self._length - self._at]
        if known and not self._pieces[0].startswith(known, self._at):
            raise StreamBroken
        self._at += len(piece)
        new = piece[len(known) :]
        if new:
            self._pieces.append(new)
            self._length += len(new)
        return new

    def end(self, text: str) -> str:
        """Take the whole text, and give what is still new to the reader.

        Raises:
            StreamBroken: as :meth:`add`, or the text is shorter than what was sent.
        """
        if not text.startswith("".join(self._pieces)):
            raise StreamBroken
        new, self._pieces, self._length = text[self._length :], [text], len(text)
        return new


async def follow_job(job_id: str, services: Services) -> AsyncGenerator[Entry]:
    """Give a job's events up to its end.

    Raises:
        StoreUnavailable: Redis is away, or forgot the job.
    """
    try:
        async with aclosing(services.events.follow(job_id)) as entries:
            async for entry in entries:
                yield entry
                if entry.is_final:
                    return
    except RedisError as error:
        log_trouble(error, chore="stream")
        raise StoreUnavailable from error
    raise StoreUnavailable("the job's events are gone; ask again")


async def follow_text(job_id: str, services: Services) -> AsyncGenerator[str | Job]:
    """Give the pieces of a job's text, then the ended job.

    A job that begins again on another worker goes on where the stream is, as long as it says the same.

    Raises:
        StreamBroken: it says something else.
        StoreUnavailable: Redis is away, or forgot the job.
    """
    diff = TextDiff()
    async with aclosing(follow_job(job_id, services)) as entries:
        async for entry in entries:
            if entry.is_final:
                job = Job.model_validate(entry.data)
                if job.output and job.status == "succeeded" and (rest := diff.end(job.output.text)):
                    yield rest
                yield job
            elif entry.type == "job.delta" and (piece := diff.add(entry.data["text"])):
                yield piece
            elif entry.type == "job.reset":
                diff.restart()
