"""The text of jobs that somebody watches, on its way to the event log while it is generated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from shared.store.claims import Claim
from shared.store.event_log import EventLog

#: Pieces are gathered for so long: an eye sees no difference, and Redis gets one call for all jobs instead of one per token.
GATHER_S = 0.05


@dataclass(eq=False)
class _Speech:
    claim: Claim
    written: int = 0  #: bytes of the text that are in the log
    pieces: list[str] = field(default_factory=list)


class TextStreams:
    """Writes what the engine says; :meth:`write` must run."""

    def __init__(self, events: EventLog) -> None:
        """Write to this log."""
        self._events = events
        self._open: set[_Speech] = set()
        self._news = asyncio.Event()

    @asynccontextmanager
    async def of(self, claim: Claim) -> AsyncIterator[Callable[[str], None] | None]:
        """Give what an engine hands its pieces of text to; None where nobody watches the job.

        What is not written when the block ends needs no writing: readers take the rest from the output.
        """
        if not await self._is_watched(claim):
            yield None
            return
        speech = _Speech(claim)
        self._open.add(speech)

        def hear(piece: str) -> None:
            speech.pieces.append(piece)
            self._news.set()

        try:
            yield hear
        finally:
            self._open.discard(speech)

    async def _is_watched(self, claim: Claim) -> bool:
        try:
            return await self._events.is_watched(claim.job_id)
        except RedisError:  # the text is worth more than its stream
            return False

    async def write(self) -> None:
        """Write what has gathered, again and again until cancelled."""
        while True:
            await self._news.wait()
            await asyncio.sleep(GATHER_S)
            self._news.clear()
            batch = [(speech, text) for speech in self._open if (text := "".join(speech.pieces))]
            try:
                held = await self._events.append_deltas([(speech.claim, speech.written, text) for speech, text in batch])
            except RedisError:
                self._news.set()  # nothing is taken off: the call is repeated, and adds nothing twice
                raise
            for (speech, text), is_held in zip(batch, held, strict=True):
                whole = "".join(speech.pieces)
                speech.pieces, speech.written = [whole[len(text) :]], speech.written + len(text.encode())
                if not is_held:
                    self._open.discard(speech)
