"""Lets many pass together, or one alone: a job that was in flight when an engine died runs with nobody beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Turnstile:
    """Those who want to be alone go first: newcomers wait until they have passed."""

    def __init__(self) -> None:
        """Begin empty."""
        self._inside = 0
        self._alone = False
        self._want_alone = 0
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """Pass beside others."""
        await self._until(lambda: not self._alone and not self._want_alone)
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            self._wake()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Pass when everybody has left, and keep everybody out meanwhile."""
        self._want_alone += 1
        try:
            await self._until(lambda: not self._alone and not self._inside)
            self._alone = True
        finally:
            self._want_alone -= 1
            self._wake()
        try:
            yield
        finally:
            self._alone = False
            self._wake()

    async def _until(self, free: Callable[[], bool]) -> None:
        while not free():
            await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
