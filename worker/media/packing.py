"""Messages between our own processes: a pickle, and beside it whatever is large, which is neither copied nor moved."""

from __future__ import annotations

import pickle
import struct
from typing import Any, BinaryIO

HEAD = struct.Struct("!II")  #: length of the pickle, number of buffers
LENGTH = struct.Struct("!Q")  #: of each buffer; they stand between the head and the pickle


def pack(message: Any) -> list[bytes | memoryview]:
    """Give a message in the pieces that go over a stream."""
    kept = list[pickle.PickleBuffer]()
    body = pickle.dumps(message, protocol=5, buffer_callback=kept.append)
    buffers = [buffer.raw() for buffer in kept]
    head = HEAD.pack(len(body), len(buffers)) + b"".join(LENGTH.pack(buffer.nbytes) for buffer in buffers)
    return [head + body, *buffers]


def read(file: BinaryIO) -> Any:
    """Wait for a message from a process that is trusted.

    Raises:
        EOFError: the other end is gone.
    """
    length, count = HEAD.unpack(_exactly(file, HEAD.size))
    lengths = [size for (size,) in LENGTH.iter_unpack(_exactly(file, count * LENGTH.size))]
    body = _exactly(file, length)
    return pickle.loads(body, buffers=[_exactly(file, size) for size in lengths])  # noqa: S301


def _exactly(file: BinaryIO, n_bytes: int) -> bytes:
    data = file.read(n_bytes)
    if len(data) < n_bytes:
        raise EOFError
    return data
