"""Python's garbage collector in a gateway with thousands of readers: no long pauses, and memory goes back when they leave."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Sized

YOUNG_S = 0.1
LOOK_EVERY_S = 5.0
MANY = 1_000  #: open requests: some 30 MB, and a fifth of a second to look through


def rarely_collect() -> None:
    """Have Python look through all objects rarely; to be called once, when the app is made.

    That took 2.2 s with 12,000 readers, in which nobody was served, and came again and again while they grew in number. What
    a request leaves is freed at once, without it.
    """
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, 10_000)  # of :func:`collect_young`: a quarter of an hour


async def collect_young() -> None:
    """Look through what is new, until cancelled.

    Python counts how many more objects there are. Heartbeats replace theirs, so it would wait until there are 100,000 new ones,
    and look through them in a tenth of a second.
    """
    while True:
        await asyncio.sleep(YOUNG_S)
        gc.collect(1)


async def give_back(open_requests: Sized) -> None:
    """Free what old requests left in cycles while few are open, and give memory to the system when many have ended.

    Python's own allocator keeps most of it for those who come next: its arenas are given back whole or not at all, and
    something small is left in each. With PYTHONMALLOC=malloc, as the gateway is started, nothing is kept.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    peak = last = 0
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        now = len(open_requests)
        peak = max(peak, now)
        if now < MANY:
            gc.collect()  # there is little to look through
        if trim and peak - now >= MANY and now >= last:  # no more are leaving: nothing can be allocated meanwhile
            peak = now
            await asyncio.to_thread(trim, 0)
        last = now
