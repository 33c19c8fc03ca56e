"""Puts hostile files through the media loader, one after another, and watches the child that decodes them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shared.blobs import Blobs
from shared.errors import SightlineError
from shared.media_types import HEAD_BYTES, check_kind
from shared.messages import ImagePart, VideoPart
from shared.settings import Settings
from tests.double import DoubleEngine
from tests.hostile import films, stills
from worker.media.loader import MediaLoader

Kind = Literal["image", "video"]
LOOK_EVERY_S = 0.01


@dataclass(frozen=True)
class Hostile:
    """A file, and what it is sent as."""

    kind: Kind
    name: str
    data: bytes


@dataclass(frozen=True)
class Result:
    """What became of a file. ``peak_mb`` is the child's memory at its highest, 0 where none was asked."""

    hostile: Hostile
    code: str
    ms: int
    peak_mb: int


def make(target: Path, *, whole: bool) -> Iterator[Hostile]:
    """Make the files; those that take seconds to make only for the whole table.

    Args:
        target: a file that playlists name.
        whole: with the large ones.
    """
    images = [stills.bombs(), stills.newer_bombs(), stills.shapes(), stills.broken(), stills.polyglots(), stills.strangers()]
    videos = [films.playlists(str(target)), films.lies(), films.broken(), films.codecs(), films.other_containers()]
    videos.append(films.long_ones())
    if whole:
        images.append(stills.large())
        videos.append(films.large())
    yield from (Hostile("image", name, data) for made in images for name, data in made)
    yield from (Hostile("video", name, data) for made in videos for name, data in made)


class Trial:
    """A loader of one child for each kind, so that it is known who decodes."""

    def __init__(self, loader: MediaLoader) -> None:
        """Watch the child of a loader."""
        self.loader = loader

    async def judge(self, hostile: Hostile) -> Result:
        """Send a file the way a client's goes: sniffed by the gateway, then decoded by the worker."""
        part = ImagePart(type="image", image="file-1") if hostile.kind == "image" else VideoPart(type="video", video="file-1")
        try:
            check_kind(hostile.data[:HEAD_BYTES], hostile.kind, param="file")
        except SightlineError as error:
            return Result(hostile, error.code, 0, 0)
        pid = await self.loader._in_child(2**28, os.getpid, kind=hostile.kind)
        await asyncio.to_thread(Path(f"/proc/{pid}/clear_refs").write_text, "5")  # the peak begins anew
        watching = asyncio.create_task(_watch(pid))
        await asyncio.sleep(0)
        began = time.monotonic()
        code = "pixels"
        try:
            await self.loader._decode(part, hostile.data)
        except SightlineError as error:
            code = error.code
        except Exception as error:  # noqa: BLE001  # what the table is there to find
            code = f"!{type(error).__name__}"
        ms = round((time.monotonic() - began) * 1000)
        watching.cancel()
        return Result(hostile, code, ms, max(await watching, _peak_mb(pid)))


async def _watch(pid: int) -> int:
    """Follow the memory of a child that may be killed, until cancelled."""
    peak = 0
    with suppress(asyncio.CancelledError):
        while True:
            peak = max(peak, _peak_mb(pid))
            await asyncio.sleep(LOOK_EVERY_S)
    return peak


def _peak_mb(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) // 1024
    return 0


@asynccontextmanager
async def trial(settings: Settings, blobs: Blobs) -> AsyncIterator[Trial]:
    """Open a loader of one child for each kind."""
    one = settings.model_copy(update={"decode_processes": 1})
    async with MediaLoader(one, blobs, DoubleEngine(one).limits) as loader:
        yield Trial(loader)


async def judge_beside_good(loader: MediaLoader, hostile: Iterable[Hostile], good: bytes, *, at_a_time: int) -> tuple[int, int]:
    """Send hostile files without pause, and good ones beside them.

    Returns:
        How many good ones were sent, and how many of them failed.
    """
    counts = [0, 0]
    busy = True

    async def send_good() -> None:
        while busy:
            counts[0] += 1
            try:
                await loader._decode(ImagePart(type="image", image="file-1"), good)
            except SightlineError:
                counts[1] += 1

    async def send(part: Hostile) -> None:
        async with slots:
            with suppress(SightlineError):
                await loader._decode(
                    ImagePart(type="image", image="x") if part.kind == "image" else VideoPart(type="video", video="x"),
                    part.data,
                )

    slots = asyncio.Semaphore(at_a_time)
    sending = asyncio.create_task(send_good())
    await asyncio.gather(*(send(one) for one in hostile))
    busy = False
    await sending
    return counts[0], counts[1]
