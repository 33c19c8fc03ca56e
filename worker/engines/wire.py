"""What a worker and its engine's process say to each other over a socket pair: pickles, with the pixels beside them."""

from __future__ import annotations

import asyncio
import io
import pickle
import struct
from dataclasses import dataclass
from typing import Any

from PIL import Image

from shared.jobs import EngineInfo, Sampling
from shared.settings import Settings
from worker.engines.base import Conversation, Front, Generation, Health, PixelLimits

#: What is read ahead of a message that is waited for: a reader that stops and starts again is slower.
LIMIT_BYTES = 64 * 2**20
_HEAD = struct.Struct("!II")  #: length of the pickle, number of buffers
_LENGTH = struct.Struct("!Q")


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


class _Pickler(pickle.Pickler):
    """Leaves the pixels of pictures out of the pickle."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Image.Image):
            return _picture, (value.size, pickle.PickleBuffer(value.tobytes()))
        return NotImplemented


def _picture(size: tuple[int, int], rgb: Any) -> Image.Image:
    return Image.frombuffer("RGB", size, rgb)


def send(writer: asyncio.StreamWriter, message: Order | Answer) -> None:
    """Send a message, to nobody where the other end is gone; await the writer's ``drain()`` after large ones."""
    if writer.is_closing():
        return
    file, kept = io.BytesIO(), list[pickle.PickleBuffer]()
    _Pickler(file, protocol=5, buffer_callback=kept.append).dump(message)
    buffers = [buffer.raw() for buffer in kept]
    head = _HEAD.pack(file.tell(), len(buffers)) + b"".join(_LENGTH.pack(buffer.nbytes) for buffer in buffers)
    writer.writelines([head + file.getvalue(), *buffers])


async def receive(reader: asyncio.StreamReader) -> Any:
    """Wait for a message.

    Raises:
        EOFError: the other end is gone.
    """
    try:
        length, count = _HEAD.unpack(await reader.readexactly(_HEAD.size))
        lengths = [size for (size,) in _LENGTH.iter_unpack(await reader.readexactly(count * _LENGTH.size))] if count else []
        body = await reader.readexactly(length)
        buffers = [await reader.readexactly(size) for size in lengths]
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise EOFError from error
    return pickle.loads(body, buffers=buffers)  # noqa: S301  # from our own process
