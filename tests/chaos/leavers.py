"""``python -m tests.chaos --plan leavers``: thousands of readers leave a real gateway, and nothing of them may stay.

So many of each kind of stream, long poll and chat, in five ways. After each kind the connections to the gateway, its
subscriptions to Redis and the chats that wait are counted, and its memory is noted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redis import Redis

from sightline.client import Client, ServiceError
from sightline.stack import Stack
from tests.chaos.trial import say
from tests.leavers import KINDS, STREAMS, WAYS, leave, request_of

LEAVERS = 5_000  #: of each kind
AT_ONCE = 100
GONE_S = 20.0  #: what the gateway has to notice that they left
#: What may be there when they have: the one subscription of the process.
NOTHING = {"connections": 0, "subscriptions": 1, "chats": 0}

_CLOSING = {"06", "0A"}  #: states of a socket in the kernel's table: past its end, and listening


def run_leavers(folder: Path, *, leavers: int) -> dict[str, Any]:
    """Play all kinds; gives the figures."""
    settings = {"SIGHTLINE_ENGINE": "tests.double:DoubleEngine", "SIGHTLINE_MIN_FREE_BYTES": "0"}
    left, memory = dict[str, dict[str, int]](), list[int]()
    with Stack(folder, settings=settings, workers=0) as stack:
        with Client(stack.url) as client:
            _until(lambda: _answers(client), 60)
            ids = _waiting_ids(client)
        with Redis(port=stack.redis_port, decode_responses=True) as redis:
            for kind in KINDS:
                asyncio.run(_all_leave(stack.port, kind, ids, leavers))
                _until(lambda: _counted(redis, stack) == NOTHING, GONE_S)
                left[kind] = _counted(redis, stack)
                memory.append(_memory_bytes(stack))
                say(f"{leavers} left: {kind}: {left[kind]}, {memory[-1] / 1e6:.0f} MB")
    return {"leavers_of_each_kind": leavers, "left": left, "memory_mb": [round(n / 1e6) for n in memory]}


def misses(figures: dict[str, Any]) -> list[str]:
    """Say what was left behind."""
    return [f"{kind} left {left}" for kind, left in figures["left"].items() if left != NOTHING]


def _waiting_ids(client: Client) -> dict[str, str]:
    """Submit a response that waits, since there is no worker."""
    body = {"model": "qwen-vl", "input": "What?", "background": True}
    response_id = str(client.request("POST", "/v1/responses", json=body)["id"])
    return {"JOB": response_id.replace("resp_", "job_"), "RESP": response_id}


async def _all_leave(port: int, kind: str, ids: dict[str, str], leavers: int) -> None:
    """Have them come and go, some at a time."""
    request = request_of(kind, ids)
    for first in range(0, leavers, AT_ONCE):
        ways = (WAYS[n % len(WAYS)] for n in range(first, min(leavers, first + AT_ONCE)))
        await asyncio.gather(*(leave(("127.0.0.1", port), request, way, is_stream=kind in STREAMS) for way in ways))


def _counted(redis: Redis, stack: Stack) -> dict[str, int]:
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    open_here = [row for row in rows if row[1].endswith(f":{stack.port:04X}") and row[3] not in _CLOSING and row[9] != "0"]
    (subscribed,) = redis.pubsub_numsub("sightline:{sightline}:news")
    chats = redis.zcard("sightline:{sightline}:q:interactive:qwen-vl:local")
    return {"connections": len(open_here), "subscriptions": int(subscribed[1]), "chats": int(str(chats))}


def _memory_bytes(stack: Stack) -> int:
    status = Path(f"/proc/{stack.processes['gateway'].pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def _answers(client: Client) -> bool:
    try:
        client.request("GET", "/livez")
    except ServiceError:
        return False
    return True


def _until(is_so: Callable[[], bool], timeout_s: float) -> None:
    until_s = time.monotonic() + timeout_s
    while not is_so() and time.monotonic() < until_s:
        time.sleep(0.1)
