"""Runs batches: looks for those that nobody runs, and runs each under a lease. Several runners share them."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from functools import partial

import structlog
from redis.exceptions import RedisError

from api.batches.metrics import RUNNING
from api.batches.run import BatchRun
from api.batches.window import LOOK_EVERY_S
from api.services import Services
from shared.store.batch_leases import Lease, LeaseLost
from shared.store.trouble_log import log_trouble

log = structlog.get_logger()

#: Batches that one runner runs at a time; the others are left to other runners, or wait.
MAX_RUNS = 32
#: Those of one owner among them, so that nobody's batches keep everybody else's waiting. Four fill four engines.
MAX_RUNS_OF_OWNER = 4
SUBMITS = 8  #: lines whose pictures are in memory at a time
CANCEL_S = 10.0  #: after which a run that has not ended is cancelled again
#: A batch that could not be run is taken up again after this, by whoever looks.
CRASH_PAUSE_S, STORE_PAUSE_S = 60.0, 2.0


class BatchRunner:
    """Looks for open batches and runs each in a task."""

    def __init__(self, services: Services) -> None:
        """Use the services of this process; :meth:`serve` must run."""
        self._services = services
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._owners = Counter[str]()
        self._submits = asyncio.Semaphore(SUBMITS)
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """Have :meth:`serve` hand back what it runs, and end."""
        self._leaving.set()

    async def serve(self) -> None:
        """Run what nobody runs, until it is to leave. Whatever goes wrong here but Redis ends it, for a supervisor to see."""
        try:
            while not self._leaving.is_set():
                try:
                    await self._look()
                except RedisError as error:
                    log_trouble(error, chore="look")
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._leaving.wait(), LOOK_EVERY_S)
        finally:
            await asyncio.shield(self._end())

    async def _look(self) -> None:
        for batch_id, owner in await self._services.batches.free():
            if len(self._runs) >= MAX_RUNS:
                return
            if batch_id in self._runs or self._owners[owner] >= MAX_RUNS_OF_OWNER:
                continue
            if lease := await self._services.batches.lease(batch_id, lease_s=self._services.settings.lease_s):
                self._owners[owner] += 1
                self._runs[batch_id] = task = asyncio.create_task(self._run(lease))
                task.add_done_callback(partial(self._forget, batch_id, owner))

    def _forget(self, batch_id: str, owner: str, _: asyncio.Task[None]) -> None:
        del self._runs[batch_id]
        self._owners[owner] -= 1

    async def _end(self) -> None:
        """Stop the runs, and let others have their batches at once."""
        while runs := set(self._runs.values()):
            for run in runs:
                run.cancel()
            await asyncio.wait(runs, timeout=CANCEL_S)

    async def _run(self, lease: Lease) -> None:
        """Run a batch; where that ends before the batch does, hand it back."""
        pause_s = 0.0
        with RUNNING.track_inprogress(), structlog.contextvars.bound_contextvars(batch_id=lease.batch_id):
            try:
                batch = await self._services.batches.get(lease.batch_id)
                return await BatchRun(self._services, lease, batch, self._submits).run()
            except LeaseLost:
                log.warning("batch.lease_lost")
            except RedisError as error:
                log_trouble(error, chore="batch")
                pause_s = STORE_PAUSE_S
            except Exception:  # the seam: a record that cannot be read, for example, must not hurt other batches
                log.exception("batch.crashed")
                pause_s = CRASH_PAUSE_S
            finally:
                await asyncio.shield(self._hand_back(lease, pause_s))
        return None

    async def _hand_back(self, lease: Lease, pause_s: float) -> None:
        with suppress(RedisError, LeaseLost):  # lost, ended, or the lease will end by itself
            await self._services.batches.leave(lease, pause_s=pause_s)
