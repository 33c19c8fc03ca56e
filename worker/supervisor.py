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
#: More deaths than this in the window, of engines that had answered nothing, and the machine, not a picture, is at fault: the
#: worker gives up and says so.
MAX_RESTARTS, RESTART_WINDOW_S = 6, 600.0
#: The same for engines that had answered something: one picture that kills them is found by five deaths at most, so this leaves
#: room for four such pictures.
MAX_SERVED, SERVED_WINDOW_S = 20, 3600.0


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
        self.has_served = False  #: this engine has answered something since it was loaded
        self._deaths: dict[bool, deque[float]] = {False: deque(), True: deque()}  #: by whether it had

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
        self._count_death()
        self.engine, self.has_served = self._make_engine(), False
        await self.start()

    def _count_death(self) -> None:
        most, window_s = (MAX_SERVED, SERVED_WINDOW_S) if self.has_served else (MAX_RESTARTS, RESTART_WINDOW_S)
        deaths, now = self._deaths[self.has_served], time.monotonic()
        while deaths and now - deaths[0] >= window_s:
            deaths.popleft()
        if len(deaths) == most:
            msg = f"the engine died {most + 1} times in {window_s / 60:.0f} minutes; see the log above"
            raise EngineUnavailable(msg)
        deaths.append(now)

    async def close(self) -> None:
        """Stop the engine."""
        await self.engine.close()
