"""Asks for jobs while a worker has free places: when rung, when a place is free after a full answer, and each second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.settings import Settings
from shared.store.claims import Asked, Claim
from shared.store.ids import new_id
from shared.store.jobs import JobStore

log = structlog.get_logger()

#: A worker with a free place asks this often whatever it hears, so a job that may start waits no longer.
ASK_EVERY_S = 1.0
#: Places that become free are gathered for so long, and up to so many times as long while they are few: the engine has jobs
#: waiting meanwhile, and Redis one call for all.
GATHER_S, MOST_GATHERS = 0.02, 5
#: Free places are not few any more at so large a share of the jobs that wait for the engine in a full worker.
ENOUGH = 0.25
#: One call starts no more jobs than this, so that Redis answers others meanwhile: 64 take 6 to 10 ms, a job no less than of 16.
MOST_AT_ONCE = 16
#: After a bell that was for nothing the next one waits so long: it may have been for a worker that takes other classes.
EMPTY_BELL_S = 0.05
#: Between two tries to ask a Redis that is away.
RETRY_S = 0.5


@dataclass(frozen=True)
class Places:
    """How many more jobs a worker takes, and how many of them may be of the two less urgent classes."""

    most: int
    default: int
    bulk: int
    suspects: int = 0  #: most of a group of suspects; none while anything is in flight, since nothing may run beside them
    has_served: bool = False  #: the engine has answered something since it was loaded


class Asking:
    """One ask at a time; :meth:`run` must run."""

    def __init__(
        self,
        settings: Settings,
        store: JobStore,
        name: str,
        *,
        places: Callable[[], Places],
        start: Callable[[Claim], None],
        on_hunger: Callable[[bool], None],
    ) -> None:
        """Ask nothing yet.

        Args:
            settings: model, lease.
            store: where the jobs are.
            name: of this worker.
            places: what is free now.
            start: begins a job, without waiting.
            on_hunger: hears whether doorbells are for this worker.
        """
        self._settings, self._store, self._name = settings, store, name
        self._places, self._start, self._on_hunger = places, start, on_hunger
        self._wake = asyncio.Event()
        self._is_rung = False
        self._is_rung_for_all = False  #: the last answer left places for every class: bells tell of all that may start
        self._under_way = asyncio.Lock()
        self._has_stopped = False

    @property
    def is_asking(self) -> bool:
        """Whether an answer is to come, with jobs that this worker does not know of yet."""
        return self._under_way.locked()

    async def stop(self, timeout_s: float) -> None:
        """Ask no more; the jobs of an ask that is under way are there when this is over."""
        self._has_stopped = True
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._under_way:
                pass

    def ring(self) -> None:
        """There is work, it is said."""
        self._is_rung = True
        self._wake.set()

    def free(self) -> None:
        """A place is free."""
        if not self._is_rung_for_all:
            self._wake.set()

    async def run(self) -> None:
        """Ask again and again until cancelled."""
        self.ring()
        while True:
            try:
                async with asyncio.timeout(ASK_EVERY_S):
                    await self._wake.wait()
                if not self._is_rung:
                    await self._gather()
            except TimeoutError:
                pass
            self._wake.clear()
            is_rung, self._is_rung = self._is_rung, False
            places = self._places()
            if self._has_stopped:
                continue
            if places.most <= 0 and not is_rung:
                self._is_rung_for_all = False
                continue
            asked = await self._ask(places)
            if is_rung and not asked.claims:
                await asyncio.sleep(EMPTY_BELL_S)

    async def _gather(self) -> None:
        reserve = self._settings.in_flight - self._settings.max_num_seqs
        for _ in range(MOST_GATHERS):
            await asyncio.sleep(GATHER_S)
            if self._is_rung or self._places().most >= min(MOST_AT_ONCE, ENOUGH * reserve):
                return

    async def _ask(self, places: Places) -> Asked:
        most = max(0, min(places.most, MOST_AT_ONCE))
        async with self._under_way:
            asked = await self._insist(most, places)
            for claim in asked.claims:
                self._start(claim)
        was_full, left = len(asked.claims) >= most or asked.has_more, self._places()
        self._is_rung_for_all = not was_full and not asked.must_wait and min(left.default, left.bulk) > 0
        self._on_hunger(not was_full and not asked.must_wait)
        if was_full and left.most > 0:
            self._wake.set()
        return asked

    async def _insist(self, most: int, places: Places) -> Asked:
        """Ask, also when Redis is away for a while: the call may have been heard, and is repeated under its token."""
        token, model = new_id("ask"), self._settings.served_model_name
        while True:
            try:
                return await self._store.claim(
                    *(self._name, model, most),
                    n_default=max(0, min(most, places.default)),
                    n_bulk=max(0, min(most, places.bulk)),
                    lease_s=self._settings.lease_s,
                    token=token,
                    n_suspects=places.suspects,
                    has_served=places.has_served,
                )
            except (RedisConnectionError, RedisTimeoutError):
                if self._has_stopped:  # what it may have got is rescued
                    return Asked([], has_more=False)
                await asyncio.sleep(RETRY_S)
