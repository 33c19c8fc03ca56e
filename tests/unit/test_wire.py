"""The channel between worker and engine: messages come out whole, however the kernel cuts them."""

from __future__ import annotations

import asyncio
import random
import socket

import pytest

from shared.sampling_params import Sampling
from worker.engines import wire
from worker.media.frame_sampling import Frames
from worker.media.loader import media_part
from worker.media.pictures import Pixels

PICTURE = Pixels(56, 28, random.Random(1).randbytes(56 * 28 * 3))
CLIP = Frames((PICTURE, Pixels(28, 28, bytes(28 * 28 * 3))), sample_fps=2.0)
TEXT = {"type": "text", "text": "描述"}
MESSAGES = [
    wire.Abort("job_1-1"),
    wire.Ask([{"role": "user", "content": [media_part(PICTURE), TEXT]}], Sampling(), "job_2-1", urgency=3, streams=True),
    wire.Ask([{"role": "user", "content": [media_part(CLIP), media_part(PICTURE)]}], Sampling(), "job_3-1", 0, streams=False),
    wire.Text("job_2-1", "蓝色的圆"),
]


async def sent() -> bytes:
    ours, theirs = socket.socketpair()
    channel = await wire.Channel.open(ours)
    for message in MESSAGES:
        channel.send(message)
    channel.close()
    reader, writer = await asyncio.open_unix_connection(sock=theirs)
    data = await reader.read()
    writer.close()
    return data


@pytest.mark.parametrize("longest", [1, 7, 1000, 10**9])
async def test_messages_come_whole_however_they_are_cut(longest: int) -> None:
    data, cut, channel = await sent(), random.Random(longest), wire.Channel()
    while data:
        room = channel.get_buffer(-1)
        n_bytes = min(len(room), len(data), cut.randint(1, longest))
        room[:n_bytes] = data[:n_bytes]
        data = data[n_bytes:]
        channel.buffer_updated(n_bytes)
    channel.connection_lost(None)

    assert [await channel.receive() for _ in MESSAGES] == MESSAGES
    for _ in range(2):  # it stays so
        with pytest.raises(EOFError):
            await channel.receive()


async def test_nobody_minds_a_message_to_one_who_has_left() -> None:
    ours, theirs = socket.socketpair()
    channel = await wire.Channel.open(ours)
    theirs.close()
    with pytest.raises(EOFError):
        await channel.receive()

    channel.send(wire.Abort("job_1-1"))
