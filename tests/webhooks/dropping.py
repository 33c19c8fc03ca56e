"""An endpoint with a million due deliveries goes: nobody waits for Redis while they are given up."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from shared.store.outbox import PIECE
from tests.webhooks.parts import Hit, Receiver, World, percentile, world

AT_ONCE = 5000
CONTROL_EVERY_S = 0.005
MOST_MS = 5.0


async def dropping(folder: Path, *, n: int = 1_000_000) -> dict[str, Any]:
    """Have a receiver with ``n`` due deliveries answer 410; beside that, a script that does nothing, as a control."""

    async def gone(_: Hit, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    async with world(folder, webhook_backlog=2 * n) as stage, Receiver(gone).serving() as receiver:
        url = f"http://127.0.0.1:{receiver.port}/"
        made = await stage.endpoints.create(owner="local", name="x", url=url, events=["job.failed"], payload="full")
        await _pile_up(stage, made.id, n)
        before_ms = await _control(stage, asyncio.create_task(asyncio.sleep(5)))
        await stage.redis.config_set("slowlog-log-slower-than", 4)  # us; not what runs in scripts
        await stage.redis.config_set("slowlog-max-len", 1_000_000)
        await stage.redis.slowlog_reset()
        began, cpu_s = time.monotonic(), await _cpu_s(stage)
        stage.spawn("worker.main", "webhooks", SIGHTLINE_WEBHOOK_BACKLOG=str(2 * n))
        during_ms = await _control(stage, asyncio.create_task(_given_up(stage, made.id)))
        took_s, cpu_s = time.monotonic() - began, await _cpu_s(stage) - cpu_s
        told = await stage.redis.slowlog_get(1_000_000)
        off = await stage.endpoints.get(made.id, owner="local")
        states = [await stage.redis.hget(_key(made.id, i), "state") for i in range(0, n, max(1, n // 1000))]  # type: ignore[misc]
        due = await stage.redis.hget("sightline:{sightline}:due_of", "local")  # type: ignore[misc]
    pieces_ms, control_ms = _server_ms(told, f"sightline:{{sightline}}: {PIECE}"), _server_ms(told, "EVAL return 1")
    return {
        "deliveries": n,
        "asked": len(receiver.hits),
        "disabled": off.disabled_reason,
        "seconds": round(took_s, 1),
        "not_given_up_of_1000": sum(state != "given_up" for state in states),
        "pieces": len(pieces_ms),
        "cpu_ms_a_piece": round(cpu_s * 1000 / len(pieces_ms), 2),  # with all that Redis does beside
        "piece_ms": _spread(pieces_ms),
        "control_ms": _spread(control_ms),
        "control_as_its_client_sees_it_ms": {"before": _spread(before_ms), "during": _spread(during_ms)},
        # The worst is that of a machine that others use, too: it stops Redis in the middle of a script.
        "ok": set(states) == {"given_up"}
        and due is None
        and max(cpu_s * 1000 / len(pieces_ms), percentile(pieces_ms, 0.5)) <= MOST_MS,
    }


def _server_ms(told: list[dict[str, Any]], mark: str) -> list[float]:
    """Give how long Redis took for each script of a kind."""
    return [entry["duration"] / 1000 for entry in told if mark in bytes(entry["command"]).decode()]


async def _cpu_s(stage: World) -> float:
    cpu = await stage.redis.info("cpu")
    return float(cpu["used_cpu_user"] + cpu["used_cpu_sys"])


def _spread(values: list[float]) -> dict[str, float]:
    shares = {"p50": 0.5, "p99": 0.99, "worst": 1.0}
    return {name: round(percentile(values, share), 2) for name, share in shares.items()}


def _key(endpoint: str, i: int) -> str:
    return f"sightline:{{sightline}}:delivery:evt_{i:032x}:{endpoint}"


async def _pile_up(stage: World, endpoint: str, n: int) -> None:
    for first in range(0, n, AT_ONCE):
        async with stage.redis.pipeline(transaction=False) as pipe:
            for i in range(first, min(n, first + AT_ONCE)):
                facts = {"state": "pending", "attempt": 0, "target": endpoint, "keep_ms": "", "at_ms": 1, "type": "job.failed"}
                pipe.hset(_key(endpoint, i), mapping=facts)
                pipe.zadd(f"sightline:{{sightline}}:due:{endpoint}", {f"evt_{i:032x}:{endpoint}": i + 1})
            await pipe.execute()
    await stage.redis.hset("sightline:{sightline}:due_of", "local", str(n))  # type: ignore[misc]
    await stage.redis.zadd("sightline:{sightline}:due", {endpoint: 1})


async def _given_up(stage: World, endpoint: str) -> None:
    left = "sightline:{sightline}:dropping", f"sightline:{{sightline}}:due:{endpoint}"
    while await stage.redis.exists(*left):  # noqa: ASYNC110
        await asyncio.sleep(0.2)


async def _control(stage: World, until: asyncio.Task[None]) -> list[float]:
    """Run a script that does nothing until something has ended; gives the ms that each took its client."""
    took_ms = []
    while not until.done():
        began = time.monotonic()
        await stage.redis.eval("return 1", 0)  # type: ignore[misc]
        took_ms.append((time.monotonic() - began) * 1000)
        await asyncio.sleep(CONTROL_EVERY_S)
    await until
    return took_ms
