"""From the references in a job to decoded pixels: fetch through the guard, decode in a killable process."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from typing import Any, Literal, Self, TypeVar

import httpx
import ssrfguard
import structlog
from pebble import ProcessExpired, ProcessPool

from shared.aio import gather_all
from shared.blobs import Blobs, upload_name
from shared.errors import MediaTooLarge, MediaUnreachable, MediaUnreadable
from shared.jobs import ImagePart, MediaPart, Message, Stage, TextPart, VideoPart
from shared.settings import Settings
from shared.urls import make_client
from worker import clips, pictures, walls
from worker.admission import Turns, pixel_bytes
from worker.engines.base import Conversation, PixelLimits

log = structlog.get_logger()

T = TypeVar("T")
Kind = Literal["image", "video"]
KINDS: tuple[Kind, ...] = ("image", "video")

#: What a decoding child may take beyond the file itself: a 50 MP picture takes 200 MB, and 16 bytes for each pixel that
#: it is scaled to; the reference frames of 4K video take 400 MB, and those that are handed on 2 MB each.
PICTURE_MEMORY_BYTES = 224 * 2**20
VIDEO_MEMORY_BYTES = 768 * 2**20
BYTES_PER_SCALED_PX = 16
#: Videos take seconds of all cores: their children get a tenth of what the engine and pictures get who want the same core.
VIDEO_NICE = 10
VIDEO_SHARE_OF_CONTEXT = 0.9  #: as in qwen_vl_utils 0.0.14; the rest is for the text and the answer
MAX_REDIRECTS = 3
#: Jobs that are with a decoder at a time: small pictures take it less than the way there, and more would go by no rank.
TURNS_PER_DECODER = 8
#: Whatever a codec leaks ends with its process.
PICTURES_PER_CHILD = 1000
PIPE_BYTES = 2**20  #: as many as Linux gives to anybody
#: A host gets so long to come up to the least rate.
GRACE_S = 5.0


class WideContext(ForkServerContext):
    """A fork server whose pipes are wide.

    Else pixels come through 64 KiB at a time, and each time Python's lock is let go of and asked for again.
    """

    def Pipe(self, duplex: bool = True) -> tuple[Connection, Connection]:  # noqa: FBT001, FBT002, N802  # its signature
        """Open a pipe."""
        reader, writer = super().Pipe(duplex)
        if not duplex:
            with suppress(OSError):  # a user has 64 MiB of pipes in all; beyond it they are only slower
                fcntl.fcntl(writer.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return reader, writer


class MediaGate:
    """Brings a job's media in. Behind it stand only pixels that our own decoder made."""

    def __init__(self, settings: Settings, blobs: Blobs, limits: PixelLimits) -> None:
        """Start no child yet; the pool does when it is first used.

        Args:
            settings: limits and time-outs.
            blobs: where uploads and inline media are.
            limits: sizes that the model's checkpoint takes.
        """
        self._settings = settings
        self._blobs = blobs
        self._limits = limits
        self._client = make_client(settings, timeout_s=5.0, max_redirects=MAX_REDIRECTS)
        self._pools = {kind: self._open_pool(kind) for kind in KINDS}
        self._turns = {kind: Turns(TURNS_PER_DECODER * settings.decode_processes) for kind in KINDS}

    def _open_pool(self, kind: Kind) -> ProcessPool:
        # A fork server: its children start in milliseconds, see worker/main.py, and have none of our threads or memory.
        context = WideContext()
        context.set_forkserver_preload(list(walls.MODULES))
        return ProcessPool(
            max_workers=self._settings.decode_processes,
            max_tasks=PICTURES_PER_CHILD,
            initializer=walls.close_in,
            initargs=(VIDEO_NICE if kind == "video" else 0,),
            context=context,
        )

    async def __aenter__(self) -> Self:
        """Start the first child: it takes a second or more, which no job should wait for."""
        await self._in_child(VIDEO_MEMORY_BYTES, len, "")
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the children and close the connections."""
        await asyncio.gather(*(asyncio.to_thread(_end_pool, pool) for pool in self._pools.values()))
        await self._client.aclose()

    async def load(
        self,
        messages: list[Message],
        *,
        on_stage: Callable[[Stage], None],
        timings_ms: dict[str, int],
        urgency: int = 0,
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> Conversation:
        """Give the messages with decoded media in the place of references.

        Args:
            messages: as the client sent them.
            urgency: its rank among those that wait for the decoders, smaller first.
            on_stage: is told when fetching and decoding begin.
            timings_ms: ``fetch`` and ``decode`` are set in it.
            on_bytes: is told how much memory the files take when they are there, then how much the pixels do.

        Raises:
            JobFailed: one of its media kinds; never the library's own error.
        """
        loop = asyncio.get_running_loop()
        parts = [part for message in messages for part in message.parts if not isinstance(part, TextPart)]
        on_stage(Stage.FETCHING)
        began = loop.time()
        raw = await gather_all([self._fetch(part) for part in parts])
        on_stage(Stage.DECODING)
        on_bytes(sum(map(len, raw)))
        fetched = loop.time()
        async with self._turns["video" if any(isinstance(part, VideoPart) for part in parts) else "image"].take(urgency):
            decoded = iter(await gather_all([self._decode(part, data) for part, data in zip(parts, raw, strict=True)]))
        timings_ms["fetch"] = round((fetched - began) * 1000)
        timings_ms["decode"] = round((loop.time() - fetched) * 1000)
        conversation = [
            {
                "role": message.role,
                "content": [part.model_dump() if isinstance(part, TextPart) else next(decoded) for part in message.parts],
            }
            for message in messages
        ]
        on_bytes(pixel_bytes(conversation))
        return conversation

    async def _fetch(self, part: MediaPart) -> bytes:
        reference, settings = reference_of(part), self._settings
        most = settings.max_image_bytes if isinstance(part, ImagePart) else settings.max_media_bytes
        if not reference.startswith(("http://", "https://")):
            data = await self._blobs.get(blob_name(reference))
            _check_length(len(data), most)
            return data
        try:
            async with asyncio.timeout(settings.fetch_timeout_s), self._client.stream("GET", reference) as answer:
                return await self._read(answer, most)
        except (httpx.HTTPError, httpx.InvalidURL, ssrfguard.SSRFGuardError, OSError, TimeoutError) as error:
            # One message for refused, filtered and blocked, so that nobody can map a network with it.
            raise MediaUnreachable from error

    async def _read(self, answer: httpx.Response, most: int) -> bytes:
        if answer.status_code != httpx.codes.OK:
            msg = f"the address of a picture or video answered with HTTP {answer.status_code}"
            raise MediaUnreachable(msg)
        loop, data = asyncio.get_running_loop(), bytearray()
        began = loop.time()
        async for chunk in answer.aiter_bytes():
            data += chunk
            _check_length(len(data), most)
            taken_s = loop.time() - began
            if taken_s > GRACE_S and len(data) < taken_s * self._settings.fetch_min_rate:
                msg = f"the host of a picture or video sends fewer than {self._settings.fetch_min_rate} bytes a second"
                raise MediaUnreachable(msg)
        return bytes(data)

    async def _decode(self, part: MediaPart, data: bytes) -> dict[str, Any]:
        bounds = self._bounds(part)
        if isinstance(part, ImagePart):
            memory_bytes = PICTURE_MEMORY_BYTES + BYTES_PER_SCALED_PX * bounds.max_px
            return media_part(await self._in_child(memory_bytes, pictures.decode_image, data, bounds))
        settings = self._settings
        context_px = settings.max_model_len * self._limits.factor_px**2 / max(1, settings.limit_videos)
        sampling = clips.Sampling(
            part.fps or settings.video_fps, part.nframes, settings.max_frames, VIDEO_SHARE_OF_CONTEXT * context_px
        )
        return media_part(await self._in_child(VIDEO_MEMORY_BYTES, clips.decode_video, data, bounds, sampling, kind="video"))

    async def _in_child(self, memory_bytes: int, function: Callable[..., T], *args: object, kind: Kind = "image") -> T:
        cpu_s = 2 * self._settings.decode_timeout_s  # FFmpeg has two threads
        wall_s = cpu_s if kind == "video" else self._settings.decode_timeout_s  # it stands back for pictures
        for _ in range(2):
            await self._renew_pool(kind)
            future = self._pools[kind].schedule(walls.run, args=(memory_bytes, cpu_s, function, *args), timeout=wall_s)
            try:
                return await asyncio.wrap_future(future)
            except TimeoutError as error:
                msg = "a picture or video takes too long to decode"
                raise MediaTooLarge(msg) from error
            except ProcessExpired as error:
                raise MediaUnreadable from error
            except BrokenProcessPool:  # no fault of this file
                continue
        raise MediaUnreadable

    async def _renew_pool(self, kind: Kind) -> None:
        """Open another pool where a child died between two files, which makes pebble give its pool up for good."""
        if not self._pools[kind].active:
            log.warning("decoders.renewed")
            broken, self._pools[kind] = self._pools[kind], self._open_pool(kind)
            await asyncio.to_thread(_end_pool, broken)

    def _bounds(self, part: MediaPart) -> pictures.Bounds:
        own, settings = self._limits, self._settings
        if isinstance(part, VideoPart):
            default, checkpoint = (settings.frame_min_pixels, settings.frame_max_pixels), (own.frame_min_px, own.frame_max_px)
        else:
            default, checkpoint = (settings.min_pixels, settings.max_pixels), (own.image_min_px, own.image_max_px)
        asked = (part.min_pixels or min(default[0], part.max_pixels or default[0]), part.max_pixels or default[1])
        low, high = common_limits(asked, checkpoint)
        return pictures.Bounds(own.factor_px, low, high, settings.max_image_pixels)


def _check_length(n_bytes: int, most: int) -> None:
    if n_bytes > most:
        msg = f"a file is longer than the {most} bytes that this service takes for its kind"
        raise MediaTooLarge(msg)


def _end_pool(pool: ProcessPool) -> None:
    pool.stop()
    pool.join()


def common_limits(asked: tuple[int, int], own: tuple[int, int]) -> tuple[int, int]:
    """Intersect the pixel limits asked for with the checkpoint's; where nothing is left the checkpoint's own hold.

    Args:
        asked: least and most pixels by the client or the settings.
        own: least and most pixels that the checkpoint was trained for.
    """
    low, high = max(asked[0], own[0]), min(asked[1], own[1])
    return (low, high) if low <= high else own


def blob_name(reference: str) -> str:
    """Say where the file of an upload id, or of a job's own inline media, is stored."""
    return upload_name(reference) if reference.startswith("file-") else reference.removeprefix("blob:")


def media_part(decoded: pictures.Pixels | clips.Frames) -> dict[str, Any]:
    """Make a part of a :data:`worker.engines.base.Conversation`."""
    return {"type": "video", "video": decoded} if isinstance(decoded, clips.Frames) else {"type": "image", "image": decoded}


def reference_of(part: MediaPart) -> str:
    """Give what the client named: an address, an upload id or a stored inline file."""
    return part.video if isinstance(part, VideoPart) else part.image
