"""An engine of S slots x T seconds, for a task of any queue. Needs only Python: it runs where just the queue is installed."""

from __future__ import annotations

import asyncio
import os
import threading
import time

SLOTS, SECONDS = int(os.environ["BENCH_SLOTS"]), float(os.environ["BENCH_SECONDS"])
IN_FLIGHT = int(os.environ["BENCH_IN_FLIGHT"])
REDIS_URL = os.environ["BENCH_REDIS_URL"]
JOBS = int(os.environ["BENCH_JOBS"])

_threads, _tasks = threading.BoundedSemaphore(SLOTS), asyncio.Semaphore(SLOTS)
_ends = os.open(os.environ["BENCH_ENDS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def _note_end() -> None:
    os.write(_ends, f"{time.time()}\n".encode())


def occupy() -> None:
    """Take a slot, from a thread."""
    with _threads:
        time.sleep(SECONDS)
    _note_end()


async def occupy_async() -> None:
    """Take a slot, from a task on an event loop."""
    async with _tasks:
        await asyncio.sleep(SECONDS)
    _note_end()
