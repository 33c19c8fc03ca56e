"""The system under test as processes: which may be hit now, which are up, what they hold."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from shared.store.key_names import PREFIX
from sightline.stack import Stack
from tests.chaos import clocked
from tests.chaos.load import MODEL, OTHER_MODEL

UP_TIMEOUT_S = 60.0
LOOK_EVERY_S = 0.1


def quiet_port(rng: random.Random) -> int:
    """Find a free port that the kernel gives to no outgoing connection, so that a part can come back to it."""
    while True:
        port = rng.randrange(20_000, 32_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if probe.connect_ex(("127.0.0.1", port)):
                return port


class Rig:
    """Holds the parts. A part is hit by one fault at a time, and only when it is up."""

    def __init__(self, stack: Stack, workers: list[str]) -> None:
        self.stack = stack
        self.workers = workers
        self.fsync = "everysec"
        self.unplanned: list[str] = []  #: parts that ended although nobody had killed them
        self.redis = Redis(port=stack.redis_port, decode_responses=True, socket_timeout=3, retry=Retry(NoBackoff(), 1))
        self._ahead_s = 0
        self._models = dict.fromkeys(workers, MODEL)
        self._locks = {name: asyncio.Lock() for name in stack.processes}

    @asynccontextmanager
    async def taken(self, name: str) -> AsyncIterator[str]:
        """Have a part for a fault of one's own."""
        async with self._locks[name]:
            yield name

    @asynccontextmanager
    async def some_worker(self, rng: random.Random) -> AsyncIterator[str]:
        """Have any worker that no other fault has, else the first to be free."""
        names = rng.sample(self.workers, len(self.workers))
        name = next((name for name in names if not self._locks[name].locked()), names[0])
        async with self._locks[name]:
            yield name

    def set_clock(self, by_s: int) -> None:
        """Set Redis's clock ahead, or back; see :mod:`tests.chaos.clocked`."""
        self._ahead_s += by_s
        Path(self.stack.environment[clocked.FILE]).write_text(f"{self._ahead_s:+d}")

    def may_change(self, name: str) -> bool:
        """Whether another worker has the model of this one, too."""
        return list(self._models.values()).count(self._models[name]) > 1

    def change(self, name: str) -> None:
        """Have a worker answer as the other model from its next start on."""
        self._models[name] = OTHER_MODEL if self._models[name] == MODEL else MODEL

    def signal(self, name: str, number: int) -> float:
        """Send a signal to a part's whole group; gives the time."""
        os.killpg(self.stack.processes[name].pid, number)
        return time.time()

    async def kill(self, name: str) -> float:
        """Kill a part's group and wait until it is gone; gives the time of the blow."""
        at_s = self.signal(name, signal.SIGKILL)
        await self.gone(name)
        return at_s

    async def gone(self, name: str) -> int:
        """Wait until a part has ended; gives its exit code."""
        while (code := self.stack.processes[name].poll()) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return code

    async def back(self, name: str) -> None:
        """Start a part again and wait until it is up."""
        self._respawn(name)
        await self.up(name)

    def _respawn(self, name: str) -> None:
        self.stack.environment["SIGHTLINE_SERVED_MODEL_NAME"] = self._models.get(name, MODEL)
        self.stack.respawn(name)

    async def up(self, name: str) -> None:
        """Wait until a part is up: Redis answers, the gateway answers, a worker says that it is ready."""
        until = time.monotonic() + UP_TIMEOUT_S
        while not await self._is_up(name):
            if self.stack.processes[name].poll() is not None:
                self.unplanned.append(name)
                self._respawn(name)
            if time.monotonic() > until:
                msg = f"{name} did not come up; see {self.stack.log_path(name)}"
                raise TimeoutError(msg)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _is_up(self, name: str) -> bool:
        if name == "gateway":
            with socket.socket() as probe:
                return not probe.connect_ex(("127.0.0.1", self.stack.port))
        try:
            if name == "redis":
                await self.redis.config_set("appendfsync", self.fsync)
                return True
            if name not in self.workers:
                return True
            notices = await self.redis.keys(f"{PREFIX}worker:{self._name_of(name)}*")
            return bool(notices) and '"ready"' in (await self.redis.get(notices[0]) or "")
        except RedisError:
            return False

    def _name_of(self, name: str) -> str:
        """Give how the name of a worker's process begins in the records."""
        return f"{socket.gethostname()}:{self.stack.processes[name].pid}-"

    async def victims(self, name: str) -> tuple[str, ...]:
        """Give the jobs that a dead or stopped worker was running; waits for a Redis that is away."""
        return tuple(await self.running(self._name_of(name)))

    async def running(self, worker: str = "") -> list[str]:
        """Give the jobs that run, all of them or those of workers whose names begin so; waits for a Redis that is away."""
        held = await self.insist(self.redis.keys, f"{PREFIX}held:{worker}*")
        return [job for key in held for job in await self.insist(self.redis.hkeys, key)]

    async def waiting(self) -> int:
        """Count the jobs that wait; waits for a Redis that is away."""
        return int(await self.insist(self.redis.hget, f"{PREFIX}totals", "queued") or 0)

    async def insist(self, ask: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Ask Redis until it answers."""
        until = time.monotonic() + UP_TIMEOUT_S
        while True:
            try:
                return await ask(*args)
            except RedisError:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(LOOK_EVERY_S)

    async def watch(self) -> None:
        """Note parts that end on their own, and start them again, as a supervisor would."""
        while True:
            for name, lock in self._locks.items():
                if not lock.locked() and self.stack.processes[name].poll() is not None:
                    self.unplanned.append(name)
                    self._respawn(name)
            await asyncio.sleep(LOOK_EVERY_S)
