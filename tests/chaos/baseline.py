"""Plain Celery with every safe setting, under the same load and the same blows, judged by the same checker.

The task is the message: no record, no lease, no rescue. Its end is the result in Celery's own backend. This file is both
the Celery app (``celery -A tests.chaos.baseline worker``) and the run.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import worker_ready
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError

from sightline.stack import Stack
from tests.chaos.checker import check, recoveries
from tests.chaos.faults import WORKER_KILLS, Faults, schedule
from tests.chaos.history import Answer, History, Seen, Submit
from tests.chaos.load import Wish, wishes
from tests.chaos.report import report
from tests.chaos.rig import Rig
from tests.chaos.trial import TAIL_S, make_stack, say

BROKER = os.environ.get("CHAOS_BROKER", "redis://127.0.0.1:1/0")
TASK = "describe"
CONCURRENCY = 8
#: Long enough for every task, short enough that a lost one is delivered again within the run.
VISIBILITY_S = 10
#: What no safe setting brings back by then is gone.
SETTLE_S = 60.0
KINDS = ("worker_kill", "worker_term", "zombie", "redis_kill_everysec", "redis_kill_always", "connections_cut")

app = Celery("plain", broker=BROKER, backend=BROKER, set_as_current=False)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    result_expires=3600,
    broker_transport_options={
        "visibility_timeout": VISIBILITY_S,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "socket_timeout": 10,
        "socket_keepalive": True,
        "health_check_interval": 5,
    },
)


def _note(*command: str | int) -> None:
    """Write what the checker needs; a run must not fail because its notes do."""
    try:
        with Redis.from_url(BROKER, socket_timeout=2) as redis:
            redis.execute_command(*command)
    except RedisError:
        pass


@worker_ready.connect  # type: ignore[untyped-decorator]
def _say_ready(**_: object) -> None:
    _note("SET", f"up:{os.getpgrp()}", 1)


@app.task(name=TASK)  # type: ignore[untyped-decorator]
def describe(key: str, run_s: float, text: str) -> str:
    """Take a while, then give the only right output."""
    _note("HSET", "held", key, os.getpgrp())
    time.sleep(run_s)
    _note("HDEL", "held", key)
    _note("HINCRBY", "runs", key, 1)
    return text


class PlainRig(Rig):
    """The same, for workers that leave no notices of ours."""

    async def _is_up(self, name: str) -> bool:
        if name == "redis":
            return await super()._is_up(name)
        try:
            return bool(await self.redis.exists(f"up:{self.stack.processes[name].pid}"))
        except RedisError:
            return False

    async def victims(self, name: str) -> tuple[str, ...]:
        """Give the tasks that a dead or stopped worker was running."""
        held: dict[str, str] = await self.insist(self.redis.hgetall, "held")
        return tuple(key for key, group in held.items() if int(group) == self.stack.processes[name].pid)


class Clients:
    """Sends tasks and reads results. A task's id is its key."""

    def __init__(self, rig: Rig, sender: Celery, history: History) -> None:
        self._rig = rig
        self._sender = sender
        self._history = history
        self.sent: list[str] = []
        self.ended: set[str] = set()

    async def play(self, drawn: list[Wish]) -> None:
        """Send every wish at its time."""
        began, sending = asyncio.get_running_loop().time(), set[asyncio.Task[None]]()
        for wish in drawn:
            await asyncio.sleep(max(0.0, began + wish.at_s - asyncio.get_running_loop().time()))
            sending.add(asyncio.create_task(self._send(wish)))
        await asyncio.gather(*sending)

    async def _send(self, wish: Wish) -> None:
        arguments, answer = [wish.key, wish.run_s, wish.expected], Answer.ACCEPTED
        try:
            await asyncio.to_thread(self._sender.send_task, TASK, arguments, task_id=wish.key)
        except (OperationalError, RedisError, OSError):
            answer = Answer.UNKNOWN
        self._history.submits.append(Submit(wish.key, wish.expected, answer, wish.key))
        self.sent.append(wish.key)

    async def look(self) -> None:
        """Read the results that are open, again and again."""
        while True:
            await asyncio.sleep(0.5)
            if wanted := [key for key in self.sent if key not in self.ended]:
                self._history.seen += [seen for seen in await self.read(wanted) if seen.end]
                self.ended |= {seen.job_id for seen in self._history.seen[-len(wanted) :]}

    async def read(self, keys: list[str]) -> list[Seen]:
        """Read these results; a task without one counts as missing."""
        values = await self._rig.insist(self._rig.redis.mget, [f"celery-task-meta-{key}" for key in keys])
        return [_seen(key, json.loads(value)) for key, value in zip(keys, values, strict=True) if value]


def _seen(key: str, meta: dict[str, Any]) -> Seen:
    status = {"SUCCESS": "succeeded", "FAILURE": "failed"}.get(meta["status"], "running")
    return Seen(key, time.time(), status, text=str(meta["result"]), code=None, key=key)


def run_baseline(
    folder: Path, counts: dict[str, int], *, seconds: float, seed: int, rate: float, workers: int, asleep_s: float
) -> dict[str, Any]:
    """Run the blows that plain Celery has parts for; gives the figures."""
    kills = sum(counts.get(kind, 0) for kind in WORKER_KILLS)  # it has no mines
    blows = {kind: counts[kind] for kind in KINDS} | {"worker_kill": kills}
    stack = make_stack(folder, workers=workers, seed=seed)
    stack.environment["CHAOS_BROKER"] = stack.environment["SIGHTLINE_REDIS_URL"]
    (folder / "logs").mkdir(parents=True)
    stack.spawn("redis", "sightline.embedded", str(stack.redis_port), str(folder / "redis"))
    names = [f"plain-{n}" for n in range(workers)]
    options = ("-c", str(CONCURRENCY), "-l", "WARNING", "--without-gossip", "--without-mingle")
    for n, name in enumerate(names):
        stack.spawn(name, "celery", "-A", "tests.chaos.baseline", "worker", *options, "-n", f"plain-{n}@%h")
    try:
        return asyncio.run(_run(stack, names, blows, seconds, seed, rate, asleep_s))
    finally:
        stack.stop()


async def _run(
    stack: Stack, names: list[str], counts: dict[str, int], seconds: float, seed: int, rate: float, asleep_s: float
) -> dict[str, Any]:
    rig, history = PlainRig(stack, names), History()
    for name in stack.processes:
        await rig.up(name)
    say(f"plain Celery is up: {len(names)} workers, {rate:g} tasks/s for {seconds:.0f} s, seed {seed}")
    sender = Celery("clients", broker=stack.environment["CHAOS_BROKER"], set_as_current=False)  # no backend: it only sends
    clients = Clients(rig, sender, history)
    faults = Faults(rig, history, sender, [], seed=seed, lease_s=asleep_s)
    aside = [asyncio.create_task(rig.watch()), asyncio.create_task(clients.look())]
    drawn = [replace(wish, webhook=False, cancel_after_s=None) for wish in wishes(seed, rate=rate, seconds=seconds + TAIL_S)]
    await asyncio.gather(clients.play(drawn), faults.play(schedule(seed, counts, seconds=seconds)))
    say("no more faults")
    until = time.monotonic() + SETTLE_S
    while len(clients.ended) < len(clients.sent) and time.monotonic() < until:  # noqa: ASYNC110  # results tell nobody
        await asyncio.sleep(1)
    for task in aside:
        task.cancel()
    await asyncio.gather(*aside, return_exceptions=True)
    history.last = {seen.key: seen for seen in await clients.read(clients.sent)}
    runs = await rig.insist(rig.redis.hgetall, "runs")
    await rig.redis.aclose()
    sender.close()
    verdict = check(history)
    ends = {seen.key: replace(seen, finished_at=seen.at_s) for seen in reversed(history.seen)}
    verdict.recovery_s = recoveries(history.faults, ends)
    facts = {
        "baseline": "plain Celery: acks_late, reject_on_worker_lost, prefetch 1, AOF",
        "seed": seed,
        "rate_per_s": rate,
        "workers": len(names),
        "visibility_timeout_s": VISIBILITY_S,
        "run_twice": sum(int(n) > 1 for n in runs.values()),
        "unplanned_exits": dict(Counter(rig.unplanned)),
    }
    return report(history, verdict, facts)
