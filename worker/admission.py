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
from contextlib import asynccontextmanager
from itertools import count

from shared.jobs import ImagePart, Message, VideoPart, media_parts
from shared.settings import Settings
from worker.engines.base import Conversation, PixelLimits

#: From this share of a step on a job is large: five pictures of 1,280 tokens are not, with steps of 16,384.
LARGE_SHARE = 0.5
#: Beside small jobs, large ones may have so many steps' worth of tokens inside: one is read while another speaks.
LARGE_STEPS = 2
#: When no small job has been there for so long, large ones may fill the engine.
QUIET_S = 10.0
#: What a picture is taken for until its file is there: few are longer. A video is taken for the longest that is let in.
PICTURE_BYTES = 8 * 2**20


def vision_tokens(conversation: Conversation, limits: PixelLimits) -> int:
    """Count the vision tokens of decoded media, by their sizes."""
    return sum(
        -(-n_frames // limits.temporal_patch) * (height_px // limits.factor_px) * (width_px // limits.factor_px)
        for n_frames, height_px, width_px in _sizes(conversation)
    )


def pixel_bytes(conversation: Conversation) -> int:
    """Count the bytes of decoded media."""
    return sum(3 * n_frames * height_px * width_px for n_frames, height_px, width_px in _sizes(conversation))


def _sizes(conversation: Conversation) -> list[tuple[int, int, int]]:
    """Give frames, height and width of each medium; a picture has one frame."""
    parts = [part for message in conversation for part in message["content"] if part["type"] != "text"]
    media = [part["video"].frames if part["type"] == "video" else (part["image"],) for part in parts]
    return [(len(frames), frames[0].height_px, frames[0].width_px) for frames in media]


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
    """So many bytes; who comes waits in order until there is room for him. A job that is larger than all goes alone."""

    def __init__(self, n_bytes: int) -> None:
        """Begin empty."""
        super().__init__()
        self._most = n_bytes

    @asynccontextmanager
    async def hold(self, n_bytes: int) -> AsyncIterator[Callable[[int], None]]:
        """Hold bytes, an estimate at first. Gives what corrects it, which never waits: so no two wait for each other."""
        held = n_bytes

        def resize(n_bytes: int) -> None:
            nonlocal held
            more, held = n_bytes - held, n_bytes
            self._change(more)

        await self._turn(held)
        try:
            yield resize
        finally:
            resize(0)

    def _has_room(self, n_bytes: int) -> bool:
        return not self._used or self._used + n_bytes <= self._most


class Memory:
    """The bytes of media in a worker: files while they are fetched and decoded, then pixels until the job's end.

    Jobs with a video and those without have half of it each, so that neither waits for the other.
    """

    def __init__(self, settings: Settings) -> None:
        """Begin empty."""
        self._settings = settings
        self._pictures, self._videos = Budget(settings.media_budget_bytes // 2), Budget(settings.media_budget_bytes // 2)

    @asynccontextmanager
    async def hold(self, messages: list[Message]) -> AsyncIterator[Callable[[int], None]]:
        """Hold what a job's media may take. Gives what corrects it, once that is known."""
        parts = [part for _, part in media_parts(messages)]
        videos = sum(isinstance(part, VideoPart) for part in parts)
        pictures = sum(isinstance(part, ImagePart) for part in parts)
        guess = videos * self._settings.max_media_bytes + pictures * min(PICTURE_BYTES, self._settings.max_image_bytes)
        async with (self._videos if videos else self._pictures).hold(guess) as resize:
            yield resize
