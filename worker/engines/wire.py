"""What a worker and its engine's process say to each other over a socket pair."""

from __future__ import annotations

import asyncio
import pickle
import socket
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

from shared.jobs import EngineInfo
from shared.sampling_params import Sampling
from shared.settings import Settings
from worker.engines.base import Conversation, Front, Generation, Health, PixelLimits, Tools
from worker.media.packing import HEAD, LENGTH, pack


@dataclass(frozen=True)
class Load:
    """To the engine, first: be this class (``module:Class``) with these settings, alone or as one of several fronts."""

    place: str
    settings: Settings
    front: Front


@dataclass(frozen=True)
class Ask:
    """To the engine: generate; the arguments are those of :meth:`worker.engines.base.Engine.generate`."""

    conversation: Conversation
    sampling: Sampling
    request_id: str
    urgency: int
    streams: bool
    tools: Tools = ()


@dataclass(frozen=True)
class Abort:
    """To the engine: stop, and hand out what there is."""

    request_id: str


@dataclass(frozen=True)
class Drop:
    """To the engine: nobody waits for this request any more."""

    request_id: str


@dataclass(frozen=True)
class Ready:
    """From the engine, first: it is loaded."""

    info: EngineInfo
    limits: PixelLimits


@dataclass(frozen=True)
class Text:
    """From the engine: a new piece."""

    request_id: str
    piece: str


@dataclass(frozen=True)
class Done:
    """From the engine: the end of a request, or of loading (``request_id`` is empty then, and it failed)."""

    request_id: str
    outcome: Generation | Exception


#: From the engine, every now and then, stands a bare :class:`worker.engines.base.Health`.
Answer = Ready | Text | Done | Health
Order = Load | Ask | Abort | Drop


class Channel(asyncio.BufferedProtocol):
    """One end of the socket pair.

    Pixels are read where they stay: through a StreamReader, which copies them twice, a megapixel takes 6 ms instead of 2.
    """

    @classmethod
    async def open(cls, end: socket.socket) -> Self:
        """Take over an end of the pair."""
        _, channel = await asyncio.get_running_loop().create_unix_connection(cls, sock=end)
        return channel

    def __init__(self) -> None:
        """Wait for the first message."""
        self._messages: asyncio.Queue[tuple[bytearray, list[bytearray]] | None] = asyncio.Queue()
        self._reading = self._read()
        self._unfilled = next(self._reading)

    def send(self, message: Any) -> None:
        """Send a message, to nobody where the other end is gone."""
        if not self.closed:
            self._transport.writelines(pack(message))

    async def receive(self) -> Any:
        """Wait for a message.

        Raises:
            EOFError: the other end is gone.
        """
        message = await self._messages.get()
        if message is None:
            self._messages.put_nowait(None)  # for whoever asks again
            raise EOFError
        return self.unpack(*message)

    def unpack(self, body: bytearray, buffers: Sequence[bytearray]) -> Any:
        """Read a message."""
        return pickle.loads(body, buffers=buffers)  # noqa: S301  # from our own process

    @property
    def closed(self) -> bool:
        """Whether one of the ends has hung up."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Hang up, when what was sent has gone out."""
        self._transport.close()

    def abort(self) -> None:
        """Hang up at once."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See :class:`asyncio.BaseProtocol`."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _: Exception | None) -> None:
        """See :class:`asyncio.BaseProtocol`."""
        self._messages.put_nowait(None)

    def get_buffer(self, _: int) -> memoryview:
        """See :class:`asyncio.BufferedProtocol`."""
        return self._unfilled

    def buffer_updated(self, n_bytes: int) -> None:
        """See :class:`asyncio.BufferedProtocol`."""
        self._unfilled = self._unfilled[n_bytes:]
        if not self._unfilled:
            self._unfilled = next(self._reading)

    def _read(self) -> Generator[memoryview, None, None]:
        """Take messages apart; yields what has to be filled before it can go on."""
        while True:
            head = bytearray(HEAD.size)
            yield memoryview(head)
            length, count = HEAD.unpack(head)
            lengths, body = bytearray(count * LENGTH.size), bytearray(length)
            if count:
                yield memoryview(lengths)
            yield memoryview(body)
            buffers = [bytearray(size) for (size,) in LENGTH.iter_unpack(lengths)]
            for buffer in buffers:
                yield memoryview(buffer)
            self._messages.put_nowait((body, buffers))
