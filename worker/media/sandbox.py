"""The sandbox of a decoding child: its memory, its CPU time, and no file or socket but those it was born with.

They hold whatever a decoder written in C is talked into, since the kernel keeps them.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import resource
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from shared.errors import SightlineError
from worker.media import packing
from worker.media.pictures import HAS_RESIZER

T = TypeVar("T")

#: What decoding needs, Pillow's plugins and codecs of strings among it: nothing can be imported inside.
MODULES = (
    "worker.media.pictures",
    "worker.media.frame_sampling",
    *(["cykooz_resizer"] if HAS_RESIZER else []),
    *(f"av.{kind}.{part}" for kind in ("audio", "subtitles", "video") for part in ("codeccontext", "stream")),
    "pi_heif",
    *(
        f"PIL.{name}ImagePlugin"
        for name in ("Avif", "Bmp", "Gif", "Ico", "Jpeg", "Jpeg2K", "Mpo", "Png", "Ppm", "Tiff", "WebP")
    ),
    *("PIL.ImageCms", "PIL.ImagePalette", "PIL.ImageSequence"),
    *("encodings.latin_1", "encodings.ascii", "encodings.utf_16", "encodings.utf_16_be", "encodings.utf_16_le"),
)
#: Memory that is kept for the next picture: getting fresh pages from the kernel took 3 of 13 ms for a megapixel.
_KEPT_BYTES = 64 * 2**20
_MAPPED_FROM_BYTES = 4 * 2**20  #: whatever is larger goes back at once: between 4 and 16 MB a 48 MP HEIC leaves 50 MB of holes
#: What a child may keep in all. Large files leave memory in pieces, between small things that stay: they end with the process.
_RETIRE_BYTES = 96 * 2**20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  #: of <malloc.h>
#: No process ever gets to more files than this from its parent.
_LEAST_FILES = 16

_status = -1  #: this process's /proc/self/status, opened while that was possible


def enter(nice: int = 0) -> None:
    """Let this process open nothing from now on: no file, no socket, no library. For good.

    Args:
        nice: how far it stands back for others that want the same cores.
    """
    os.nice(nice)
    global _status  # noqa: PLW0603  # one per process, as the limits are
    for module in MODULES:
        importlib.import_module(module)
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM_BYTES)
    libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    _status = os.open("/proc/self/status", os.O_RDONLY)
    # Descriptors are given out from the lowest free one, so with all below the limit taken none can be given out.
    lowest = _status
    while lowest < _LEAST_FILES:
        lowest = os.open(os.devnull, os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, lowest + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def serve(connection: socket.socket, nice: int) -> None:
    """Decode what a gate sends, one file after the other, in the sandbox, until it hangs up. See worker/media/decoders.py.

    Args:
        connection: brings ``(memory_bytes, cpu_s, function, args)``, and takes ``(whether it went well, what came out,
            whether it can take another)``, the first one, unasked, its pid.
        nice: how far to stand back for others that want the same cores.
    """
    enter(nice)
    file, answer = connection.makefile("rb"), packing.pack((True, os.getpid()))
    first = _status_bytes(b"VmData:")
    with suppress(EOFError, OSError):
        while True:
            while answer:
                connection.sendall(answer.pop(0))
            found = _answer(*packing.read(file))
            answer = packing.pack((*found, _status_bytes(b"VmData:") - first < _RETIRE_BYTES))
            del found


def _answer(memory_bytes: int, cpu_s: float, function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[bool, Any]:
    try:
        return True, run(memory_bytes, cpu_s, function, *args)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is this file's, and its job's to tell
        if isinstance(error, SightlineError) or type(error).__module__ == "builtins":
            return False, error
        kind = OSError if isinstance(error, OSError) else RuntimeError  # a library's own may not pass the gate
        return False, kind(f"{type(error).__name__}: {error}")


def run(memory_bytes: int, cpu_s: float, function: Callable[..., T], *args: object) -> T:
    """Call a function with so much more memory than there is in use now, and so much CPU time.

    Args:
        memory_bytes: beyond it the function meets MemoryError, or its library's own way to say so.
        cpu_s: of all threads; beyond it the process is killed, also when nobody watches it any more.
        function: a decoder.
        args: what it is given.
    """
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_status_bytes(b"VmData:") + memory_bytes, most))
    _, longest = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time() + cpu_s) + 1, longest))
    try:
        return function(*args)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        resource.setrlimit(resource.RLIMIT_CPU, (longest, longest))


def _status_bytes(field: bytes) -> int:
    _, _, after = os.pread(_status, 8192, 0).partition(field)
    return int(after.split(maxsplit=1)[0]) * 1024
