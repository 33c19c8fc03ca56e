"""What is done to the system, and when: a seeded schedule of blows."""

from __future__ import annotations

import asyncio
import json
import random
import resource
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from shared.doorbells import RING, queue_of
from shared.settings import DEFAULT_MODEL
from shared.store.ids import new_id
from shared.store.key_names import bell_prefix
from tests.chaos.history import Fault, History
from tests.chaos.mined import AFTER_COMPLETE, AFTER_SUBMIT, BEFORE_CLAIM, BEFORE_COMPLETE, order
from tests.chaos.rig import Rig

DOORBELLS = f"{bell_prefix()}{queue_of(DEFAULT_MODEL)}"
STEAL_S = 1.0
DUPLICATES = 20
#: A stopped worker is woken this long after its lease has ended, when another has begun its jobs.
OVERSLEEP_S = 3.0
STOP_TIMEOUT_S = 30.0
#: Longer than a worker's pause before it tries a job again whose files are away.
DISK_FAULT_S = (1.0, 6.0)
#: Workers stand still for so long, less than a lease, so that jobs wait when their files go away.
BACKLOG_S = 1.0
#: Nobody may come by a mine in this time, when no doorbell comes to that worker.
MINE_S = 15.0
_WORKER_MINES = (BEFORE_CLAIM, BEFORE_COMPLETE, AFTER_COMPLETE)
#: Blows that end a worker's whole group as kill -9 does.
WORKER_KILLS = frozenset({"worker_kill", *(f"worker_kill_{point}" for point in _WORKER_MINES)})

#: Blows that keep Redis from everybody for longer than a lease; nothing that is in hand then may be made again.
OUTAGES = frozenset({"redis_refusing", "redis_stopped", "redis_away", "clock_ahead", "clock_back"})
#: One of them beside a worker that dies meanwhile, whose jobs are made again.
OUTAGE_KILL = "redis_stopped_worker_kill"
#: Seconds by which a clock is set.
AHEAD_S, BACK_S = 60, -3600
#: Blows that end nobody: no job may fail of them, nor be charged an attempt.
HARMLESS = frozenset({"worker_term", "worker_changed", "files_gone", "gateway_disk_full", "worker_disk_full"})

#: How many blows of each kind, and seconds to deal them in.
PLANS: Mapping[str, tuple[float, dict[str, int]]] = {
    "calm": (20.0, {}),
    "quick": (
        50.0,
        {
            "worker_kill": 5,
            "worker_kill_before_claim": 1,
            "worker_kill_before_complete": 1,
            "worker_kill_after_complete": 1,
            "worker_term": 2,
            "zombie": 2,
            "redis_kill_everysec": 1,
            "redis_kill_always": 1,
            "connections_cut": 3,
            "gateway_kill": 1,
            "gateway_kill_after_submit": 1,
            "sender_kill": 1,
            "doorbells_doubled": 2,
            "doorbells_forged": 2,
            "doorbells_stolen": 2,
        },
    ),
    "outage": (90.0, {"redis_refusing": 2, "redis_stopped": 2, "redis_away": 2, OUTAGE_KILL: 1}),
    "clock": (60.0, {"clock_ahead": 2, "clock_back": 2}),
    "models": (60.0, {"worker_changed": 12}),
    "rolling": (120.0, {"worker_term": 25}),
    "disks": (60.0, {"files_gone": 5, "gateway_disk_full": 4, "worker_disk_full": 4}),
    "full": (
        510.0,
        {
            "worker_kill": 81,
            "worker_kill_before_claim": 8,
            "worker_kill_before_complete": 8,
            "worker_kill_after_complete": 8,
            "worker_term": 20,
            "zombie": 22,
            "redis_kill_everysec": 15,
            "redis_kill_always": 15,
            "connections_cut": 30,
            "gateway_kill": 12,
            "gateway_kill_after_submit": 6,
            "sender_kill": 8,
            "doorbells_doubled": 15,
            "doorbells_forged": 15,
            "doorbells_stolen": 15,
        },
    ),
}


def schedule(seed: int, counts: Mapping[str, int], *, seconds: float) -> list[tuple[float, str]]:
    """Spread the blows of each kind over the time, each at a random place in its share of it."""
    rng = random.Random(seed)
    times = [((n + rng.random()) * seconds / count, kind) for kind, count in sorted(counts.items()) for n in range(count)]
    return sorted(times)


class Faults:
    """Deals the blows to a rig and writes them into the history."""

    def __init__(self, rig: Rig, history: History, app: Celery, recent: list[str], *, seed: int, lease_s: float) -> None:
        """Aim.

        Args:
            rig: whom to hit.
            history: where the blows are noted.
            app: rings false doorbells.
            recent: ids of accepted jobs, whose doorbells are rung again.
            seed: of the choice of targets and moments.
            lease_s: a zombie sleeps longer than this.
        """
        self._rig = rig
        self._history = history
        self._app = app
        self._recent = recent
        self._rng = random.Random(seed + 1)
        self._lease_s = lease_s
        self._files = asyncio.Lock()  #: the folder of files goes away once at a time
        self.rung = 0  #: doorbells of ours
        self.stolen = 0  #: doorbells taken away
        self.missed = 0  #: mines that nobody stepped on
        self.in_hand = 0  #: jobs that ran when an outage began

    async def play(self, times: list[tuple[float, str]]) -> None:
        """Deal every blow at its time; returns when the last part is up again."""
        began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            for at_s, kind in times:
                await asyncio.sleep(max(0.0, began + at_s - asyncio.get_running_loop().time()))
                group.create_task(self._deal(kind))

    async def _deal(self, kind: str) -> None:
        deals: dict[str, Callable[[str], Awaitable[None]]] = {
            "worker_kill": self._worker_kill,
            **{f"worker_kill_{point}": self._mine for point in _WORKER_MINES},
            f"gateway_kill_{AFTER_SUBMIT}": self._mine,
            "worker_term": self._worker_term,
            "zombie": self._zombie,
            "redis_kill_everysec": self._redis_kill,
            "redis_kill_always": self._redis_kill,
            "redis_refusing": self._outage,
            "redis_stopped": self._outage,
            "redis_away": self._outage,
            OUTAGE_KILL: self._outage_with_a_death,
            "clock_ahead": self._clock_set,
            "clock_back": self._clock_set,
            "worker_changed": self._worker_changed,
            "connections_cut": self._connections_cut,
            "files_gone": self._files_gone,
            "gateway_disk_full": self._disk_full,
            "worker_disk_full": self._disk_full,
            "gateway_kill": self._part_kill,
            "sender_kill": self._part_kill,
            "doorbells_doubled": self._doorbells_doubled,
            "doorbells_forged": self._doorbells_forged,
            "doorbells_stolen": self._doorbells_stolen,
        }
        await deals[kind](kind)

    def _note(self, kind: str, at_s: float, target: str = "", victims: tuple[str, ...] = ()) -> None:
        self._history.faults.append(Fault(kind, at_s, target, victims))

    async def _worker_kill(self, kind: str) -> None:
        async with self._rig.some_worker(self._rng) as name:
            at_s = await self._rig.kill(name)
            self._note(kind, at_s, name, await self._rig.victims(name))
            await self._rig.back(name)

    async def _mine(self, kind: str) -> None:
        """Have a worker, or the gateway, die by itself at a point in its code."""
        part, _, point = kind.partition("_kill_")
        async with self._rig.some_worker(self._rng) if part == "worker" else self._rig.taken(part) as name:
            path = order(self._rig.stack.folder / "mines", self._rig.stack.processes[name].pid, point)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._rig.gone(name), MINE_S)
            at_s = time.time()
            path.unlink()
            await asyncio.sleep(0.1)  # it may have read the order just before
            if self._rig.stack.processes[name].poll() is None:
                self.missed += 1
                return
            self._note(kind, at_s, name, await self._rig.victims(name) if part == "worker" else ())
            await self._rig.back(name)

    async def _worker_term(self, kind: str) -> None:
        """Stop a worker as a rolling restart does: SIGTERM, then SIGKILL for one that does not leave."""
        async with self._rig.some_worker(self._rng) as name:
            at_s, process = time.time(), self._rig.stack.processes[name]
            process.terminate()
            try:
                await asyncio.wait_for(self._rig.gone(name), STOP_TIMEOUT_S)
            except TimeoutError:
                self._note("worker_term_ignored", at_s, name)
                await self._rig.kill(name)
            self._note(kind, at_s, name)
            await self._rig.back(name)

    async def _zombie(self, kind: str) -> None:
        """Stop a worker until another has its jobs, then let it go on as if nothing had been."""
        async with self._rig.some_worker(self._rng) as name:
            at_s = self._rig.signal(name, signal.SIGSTOP)
            self._note(kind, at_s, name, await self._rig.victims(name))
            await asyncio.sleep(self._lease_s + OVERSLEEP_S)
            self._rig.signal(name, signal.SIGCONT)
            await self._rig.up(name)

    async def _redis_kill(self, kind: str) -> None:
        async with self._rig.taken("redis"):
            self._rig.fsync = kind.rpartition("_")[2]
            await self._rig.up("redis")
            await asyncio.sleep(self._rng.uniform(0.2, 1.0))
            self._note(kind, await self._rig.kill("redis"), "redis")
            await asyncio.sleep(self._rng.uniform(0, 1.5))
            await self._rig.back("redis")

    async def _outage(self, kind: str, doomed: str = "") -> None:
        """Keep Redis from everybody until every lease would have ended; ``doomed`` is a worker that dies meanwhile."""
        rig = self._rig
        async with rig.taken("redis"):
            await rig.up("redis")
            self.in_hand += len(await rig.running())
            self._note(kind, time.time(), "redis")
            away_s = self._lease_s + OVERSLEEP_S
            if kind == "redis_refusing":
                await rig.insist(rig.redis.config_set, "min-replicas-to-write", 1)
                await asyncio.sleep(away_s)
                await rig.insist(rig.redis.config_set, "min-replicas-to-write", 0)
            elif kind == "redis_away":
                await rig.kill("redis")
                await asyncio.sleep(away_s)
                await rig.back("redis")
            else:
                victims = await rig.victims(doomed) if doomed else ()
                rig.signal("redis", signal.SIGSTOP)
                await asyncio.sleep(away_s / 2)
                if doomed:
                    self._note(OUTAGE_KILL, await rig.kill(doomed), doomed, victims)
                await asyncio.sleep(away_s / 2)
                rig.signal("redis", signal.SIGCONT)
                await rig.up("redis")

    async def _outage_with_a_death(self, _kind: str) -> None:
        """Kill a worker while Redis stands still: its jobs are found out a lease later."""
        async with self._rig.some_worker(self._rng) as name:
            await self._outage("redis_stopped", name)
            await self._rig.back(name)

    async def _clock_set(self, kind: str) -> None:
        """Set Redis's clock, and leave it so."""
        rig = self._rig
        async with rig.taken("redis"):
            self.in_hand += len(await rig.running())
            self._note(kind, time.time(), "redis")
            rig.set_clock(AHEAD_S if kind == "clock_ahead" else BACK_S)

    async def _worker_changed(self, kind: str) -> None:
        """Give a worker the other model, as long as each is left one."""
        names = self._rng.sample(self._rig.workers, len(self._rig.workers))
        name = next(name for name in names if self._rig.may_change(name))
        async with self._rig.taken(name):
            if not self._rig.may_change(name):
                return
            self._note(kind, time.time(), name)
            self._rig.change(name)
            self._rig.stack.processes[name].terminate()
            await self._rig.gone(name)
            await self._rig.back(name)

    async def _part_kill(self, kind: str) -> None:
        name = {"gateway_kill": "gateway", "sender_kill": "webhooks"}[kind]
        async with self._rig.taken(name):
            self._note(kind, await self._rig.kill(name), name)
            await self._rig.back(name)

    async def _files_gone(self, kind: str) -> None:
        """Take the folder of everybody's files away for a while, as a mount that drops does, while jobs wait for theirs."""
        folder = self._rig.stack.folder / "blobs"
        away = folder.with_name("blobs-away")
        async with self._files:
            async with AsyncExitStack() as stopped:
                for name in self._rig.workers:
                    await stopped.enter_async_context(self._rig.taken(name))
                    self._rig.signal(name, signal.SIGSTOP)
                await asyncio.sleep(BACKLOG_S)
                folder.rename(away)
                self._note(kind, time.time())
                for name in self._rig.workers:
                    self._rig.signal(name, signal.SIGCONT)
            await asyncio.sleep(self._rng.uniform(*DISK_FAULT_S))
            away.rename(folder)

    async def _disk_full(self, kind: str) -> None:
        """Let no file of a part grow for a while, its log included: as on a full disk, but for the other parts."""
        part = kind.partition("_")[0]
        async with self._rig.some_worker(self._rng) if part == "worker" else self._rig.taken(part) as name:
            pid = self._rig.stack.processes[name].pid
            _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, most))
            self._note(kind, time.time(), name)
            await asyncio.sleep(self._rng.uniform(*DISK_FAULT_S))
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))

    async def _connections_cut(self, kind: str) -> None:
        await self._rig.insist(self._rig.redis.execute_command, *["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
        await self._rig.insist(self._rig.redis.execute_command, *["CLIENT", "KILL", "TYPE", "pubsub"])
        self._note(kind, time.time())

    async def _doorbells_doubled(self, kind: str) -> None:
        """Ring, whether or not there is work, and copy what lies in the list."""
        self._note(kind, time.time())
        for job_id in self._recent[-DUPLICATES:]:
            await self._ring(RING, job_id)
        copies = await self._rig.insist(self._rig.redis.lrange, DOORBELLS, 0, -1)
        for copy in copies:
            self.rung += 1
            await self._rig.insist(self._rig.redis.lpush, DOORBELLS, copy)

    async def _doorbells_forged(self, kind: str) -> None:
        """Ring with words that a doorbell has not, for tasks that are not there, and with what is no message at all."""
        self._note(kind, time.time())
        await self._ring(RING, new_id("job"))
        await self._ring(RING, "../../etc/passwd")
        await self._ring(RING, {"not": "an id"})
        await self._ring("job.nonsense", "x")
        for garbage in ("not JSON", json.dumps({"body": "%%%", "headers": {}, "properties": {}}), "[]"):
            self.rung += 1
            await self._rig.insist(self._rig.redis.lpush, DOORBELLS, garbage)

    async def _doorbells_stolen(self, kind: str) -> None:
        """Take doorbells away for a while: delete the list, and wait at it before the workers do."""
        self._note(kind, time.time())
        until = time.monotonic() + STEAL_S
        self.stolen += await self._rig.insist(self._rig.redis.llen, DOORBELLS)
        await self._rig.insist(self._rig.redis.delete, DOORBELLS)

        async def steal() -> None:
            while time.monotonic() < until:
                with suppress(RedisError):
                    self.stolen += bool(await self._rig.redis.brpop([DOORBELLS], timeout=STEAL_S))

        await asyncio.gather(*(steal() for _ in range(8)))

    async def _ring(self, task: str, argument: object) -> None:
        self.rung += 1
        with suppress(OperationalError, RedisError, OSError):
            await asyncio.to_thread(self._app.send_task, task, args=[argument], retry=False, ignore_result=True)
