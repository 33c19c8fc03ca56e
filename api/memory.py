"""Gives memory back to the system when thousands of readers have left."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Sized

LOOK_EVERY_S = 10.0
WORTH = 1_000  #: requests that have ended since: some 30 MB; below it the pause of a tenth of a second is not worth it


async def give_back(open_requests: Sized) -> None:
    """Look now and then whether many have ended, until cancelled.

    Python's own allocator keeps most of it for those who come next: its arenas are given back whole or not at all, and
    something small is left in each. With PYTHONMALLOC=malloc, as the gateway is started, nothing is kept.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    peak = 0
    while trim:
        await asyncio.sleep(LOOK_EVERY_S)
        peak = max(peak, len(open_requests))
        if peak - len(open_requests) >= WORTH:
            peak = len(open_requests)
            gc.collect()  # what an ended request leaves is in cycles
            await asyncio.to_thread(trim, 0)
