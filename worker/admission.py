"""What may be in memory and in the engine at a time, so that a few long videos do not stop the pictures.

Small jobs never wait for large ones, and large ones always get on: they go in order, and some of them are always inside.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count

from shared.messages import Message, VideoPart, media_parts

#: From this share of a step on a job is large: five pictures of 1,280 tokens are not, with steps of 16,384.
LARGE_SHARE = 0.5
#: Beside small jobs, large ones may have so many steps' worth of tokens inside: one is read while another speaks.
LARGE_STEPS = 2
#: When no small job has been there for so long, large ones may fill the engine.
QUIET_S = 10.0
#: What files that are still on their way may have of the memory for media.
ARRIVING_SHARE = 0.25


class _Door(ABC):
    """Lets jobs in by rank, then in order, while there is room; the first one that finds none holds up those behind it."""

    def __init__(self) -> None:
        self._used = 0
        self._numbers = count()
        self._waiting: list[tuple[int, int, int, asyncio.Future[None]]] = []

    @abstractmethod
    def _has_room(self, size: int) -> bool:
        """Whether one more of this size may come in now."""

    async def _turn(self, size: int, rank: int = 0) -> None:
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, next(self._numbers), size, turn))
        self._let_in()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was let in just before
                self._used -= size
            self._let_in()
            raise

    def _change(self, by: int) -> None:
        self._used += by
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and (self._waiting[0][-1].done() or self._has_room(self._waiting[0][2])):
            *_, size, turn = heapq.heappop(self._waiting)
            if not turn.done():
                self._used += size
                turn.set_result(None)


class Admission(_Door):
    """The door of the engine. What a long video costs is its prefill, which fills whole steps while others wait for a token."""

    def __init__(self, step_tokens: int, *, now: Callable[[], float] = time.monotonic) -> None:
        """Begin empty.

        Args:
            step_tokens: that the engine reads in one step.
            now: a clock, seconds.
        """
        super().__init__()
        self._large_from = LARGE_SHARE * step_tokens
        self._most = LARGE_STEPS * step_tokens
        self._now = now
        self._small = 0
        self._small_left_s = -math.inf

    @asynccontextmanager
    async def inside(self, tokens: int, rank: int = 0) -> AsyncIterator[None]:
        """Be in the engine with so many vision tokens; large jobs wait their turn, those of a smaller rank first."""
        if tokens < self._large_from:
            self._small += 1
            try:
                yield
            finally:
                self._small -= 1
                self._small_left_s = self._now()
        else:
            await self._turn(tokens, rank)
            try:
                yield
            finally:
                self._change(-tokens)

    def _has_room(self, tokens: int) -> bool:
        quiet = not self._small and self._now() - self._small_left_s > QUIET_S
        return not self._used or self._used + tokens <= self._most or quiet


class Turns(_Door):
    """A semaphore whose waiters go by rank, for something that serves few at a time."""

    def __init__(self, n: int) -> None:
        """Serve ``n`` at a time."""
        super().__init__()
        self._most = n

    @asynccontextmanager
    async def take(self, rank: int) -> AsyncIterator[None]:
        """Wait for a turn and have it while the block runs; smaller ranks go first."""
        await self._turn(1, rank)
        try:
            yield
        finally:
            self._change(-1)

    def _has_room(self, size: int) -> bool:
        return self._used + size <= self._most


class Budget(_Door):
    """So many bytes; jobs wait, by rank and then in order, until there is room. A job larger than all of it goes alone."""

    def __init__(self, n_bytes: int) -> None:
        """Begin empty."""
        super().__init__()
        self._most = n_bytes

    @property
    def used(self) -> int:
        """Bytes that are held."""
        return self._used

    @asynccontextmanager
    async def hold(self, n_bytes: int, rank: int = 0) -> AsyncIterator[Callable[[int], None]]:
        """Hold bytes, the most there can be at first; smaller ranks go first.

        Yields a function that changes the number of bytes held. It never waits, so jobs cannot deadlock.
        """
        held = n_bytes

        def resize(n_bytes: int) -> None:
            nonlocal held
            more, held = n_bytes - held, n_bytes
            self._change(more)

        await self._turn(held, rank)
        try:
            yield resize
        finally:
            resize(0)

    def _has_room(self, n_bytes: int) -> bool:
        return not self._used or self._used + n_bytes <= self._most


class Arrivals:
    """So many bytes of files that are on their way, counted as they come.

    A job without room waits. One waiting job at a time may exceed the limit until all its files are here: else jobs that hold a
    part each, and wait for the rest, would deadlock.
    """

    def __init__(self, n_bytes: int) -> None:
        """Begin empty."""
        self._most, self.used = n_bytes, 0
        self._held: dict[object, int] = {}
        self._ahead: object = None
        self._changed = asyncio.Event()

    async def more(self, job: object, n_bytes: int) -> None:
        """Hold more bytes for a job, once there is room for them."""
        while self.used + n_bytes > self._most and self._ahead is not job:
            if self._ahead is None:
                self._ahead = job
                break
            await self._changed.wait()
        self._held[job] = self._held.get(job, 0) + n_bytes
        self.used += n_bytes

    def leave(self, job: object) -> None:
        """Give back what a job holds."""
        self.used -= self._held.pop(job, 0)
        if self._ahead is job:
            self._ahead = None
        self._changed.set()
        self._changed = asyncio.Event()


class Hold:
    """What one job's media take of the memory: files while they arrive, then files and pixels until the job's end."""

    def __init__(self, arrivals: Arrivals, budget: Budget, rank: int) -> None:
        """Hold nothing yet."""
        self._arrivals, self._budget, self._rank = arrivals, budget, rank
        self._stack = AsyncExitStack()
        #: Corrects what is held of the larger part, without waiting; known once the job is in there.
        self.resize: Callable[[int], None] = lambda _: None

    async def arrive(self, n_bytes: int) -> None:
        """Wait until there is room for some more bytes of a file that is on its way."""
        await self._arrivals.more(self, n_bytes)

    async def settle(self, n_bytes: int) -> None:
        """Wait for a place among the jobs whose files are all here, by rank; what has arrived is counted there from now on."""
        self.resize = await self._stack.enter_async_context(self._budget.hold(n_bytes, self._rank))
        self._arrivals.leave(self)

    async def leave(self) -> None:
        """Give everything back."""
        self._arrivals.leave(self)
        await self._stack.aclose()


class Memory:
    """The bytes of media in a worker: files while they are fetched and decoded, then pixels until the job's end.

    Jobs with a video and those without have half of it each, so that neither waits for the other; and files that are on their
    way have a part of their own, so that no host can keep those waiting whose files are here.
    """

    def __init__(self, n_bytes: int) -> None:
        """Begin empty."""
        arriving = round(n_bytes / 2 * ARRIVING_SHARE)
        self._pictures, self._videos = ((Arrivals(arriving), Budget(n_bytes // 2 - arriving)) for _ in range(2))

    @property
    def used(self) -> int:
        """Bytes that are held now."""
        return sum(part.used for kind in (self._pictures, self._videos) for part in kind)

    @asynccontextmanager
    async def hold(self, messages: list[Message], rank: int = 0) -> AsyncIterator[Hold]:
        """Give what counts a job's media, as they come.

        Args:
            messages: of the job.
            rank: among those that wait for a place, smaller first.
        """
        has_video = any(isinstance(part, VideoPart) for part in media_parts(messages))
        hold = Hold(*(self._videos if has_video else self._pictures), rank)
        try:
            yield hold
        finally:
            await hold.leave()
