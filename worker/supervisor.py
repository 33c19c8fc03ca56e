"""Keeps an engine running: a dead or stuck one is thrown away and another started, a bounded number of times."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

import structlog

from shared.settings import Settings
from worker.engines.base import Engine, EngineUnavailable, Health

log = structlog.get_logger()

LOOK_EVERY_S = 0.5
#: More deaths than this in the window and the machine, not a picture, is at fault: the worker gives up and says so.
MAX_RESTARTS = 6
RESTART_WINDOW_S = 600.0


class EngineSupervisor:
    """Owns the engine. Crash-only: nothing is repaired in place, since a broken CUDA context cannot be."""

    def __init__(self, settings: Settings, make_engine: Callable[[], Engine]) -> None:
        """Make the first engine; nothing is loaded yet.

        Args:
            settings: how long an engine may be stuck.
            make_engine: makes a fresh one.
        """
        self._settings = settings
        self._make_engine = make_engine
        self.engine = make_engine()
        self.restarts = 0
        self._deaths: deque[float] = deque(maxlen=MAX_RESTARTS)

    async def start(self) -> None:
        """Load the engine.

        Raises:
            EngineUnavailable: it cannot start here.
        """
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.engine_start_timeout_s):
                await self.engine.start()
        except TimeoutError as error:
            msg = f"the engine was not ready after {self._settings.engine_start_timeout_s:.0f} s"
            raise EngineUnavailable(msg) from error
        log.info("engine.ready", seconds=round(time.monotonic() - began, 1), **self.engine.info.model_dump())

    async def health(self) -> Health:
        """Ask the engine how it is."""
        return await self.engine.health()

    async def wait_for_death(self) -> str:
        """Wait until the engine is dead or stuck; gives the reason."""
        while True:
            health = await self.engine.health()
            if not health.alive:
                return "dead"
            if health.stalled_s > self._settings.engine_stall_s:
                return f"no step for {health.stalled_s:.0f} s"
            await asyncio.sleep(LOOK_EVERY_S)

    async def restart(self, reason: str) -> None:
        """Throw the engine away and start another.

        Raises:
            EngineUnavailable: engines die too often here.
        """
        self.restarts += 1
        log.error("engine.restarting", reason=reason, restarts=self.restarts)
        await self.engine.close()
        now = time.monotonic()
        if len(self._deaths) == MAX_RESTARTS and now - self._deaths[0] < RESTART_WINDOW_S:
            msg = f"the engine died {MAX_RESTARTS + 1} times in {RESTART_WINDOW_S / 60:.0f} minutes; see the log above"
            raise EngineUnavailable(msg)
        self._deaths.append(now)
        self.engine = self._make_engine()
        await self.start()

    async def close(self) -> None:
        """Stop the engine."""
        await self.engine.close()
