"""From the references in a job to decoded pixels: fetch through the guard, decode in a killable process."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from itertools import chain
from pickle import PickleBuffer
from typing import Any, Literal, Self, TypeVar

import structlog

from shared.aio import gather_all
from shared.blobs import Blobs, upload_name
from shared.errors import MediaTooLarge, MediaUnreadable, ResourceExhausted
from shared.jobs import Priority, Stage
from shared.messages import MAX_FRAMES, ImagePart, MediaPart, Message, TextPart, VideoPart, references_of
from shared.settings import Settings
from worker.admission import Hold, Memory, Turns
from worker.engines.base import Conversation, PixelLimits
from worker.engines.sizes import pixel_bytes
from worker.media import frame_sampling, memory_plan, pictures
from worker.media.decoders import Crashed, Decoders, Killed
from worker.media.fetch import Fetcher, check_length, waiting_for_hosts
from worker.media.memory_plan import BYTES_PER_SCALED_PX, PICTURE_MEMORY_BYTES

log = structlog.get_logger()

T = TypeVar("T")
Kind = Literal["image", "video"]
File = bytes | bytearray

#: Videos take seconds of all cores: their children get a tenth of what the engine and pictures get who want the same core.
VIDEO_NICE = 10
VIDEO_SHARE_OF_CONTEXT = 0.9  #: as in qwen_vl_utils 0.0.14; the rest is for the text and the answer
#: Jobs handed to one decoder at a time. A small picture decodes faster than it is sent, so with one the decoder would be idle;
#: with many more, jobs would pass by their rank.
TURNS_PER_DECODER = 8
#: Once in a row may be bad luck; a file whose decoders are killed so often is left to another worker, or to a quieter time.
TRIES = 3


class MediaLoader:
    """Brings a job's media in. Behind it stand only pixels that our own decoder made."""

    def __init__(self, settings: Settings, blobs: Blobs, limits: PixelLimits) -> None:
        """Start no child yet.

        Args:
            settings: limits and time-outs.
            blobs: where uploads and inline media are.
            limits: sizes that the model's checkpoint takes.
        """
        self._settings, self._blobs, self._limits = settings, blobs, limits
        self._plan = memory_plan.make_plan(settings, limits.image_max_px, memory_plan.container_memory())
        if self._plan.why_fewer:
            log.warning("media.small_container", **asdict(self._plan))
        self.memory = Memory(self._plan.media_bytes)
        self._fetcher = Fetcher(settings)
        self._decoders = {
            "image": Decoders(self._plan.decoders),
            "video": Decoders(self._plan.decoders, nice=VIDEO_NICE),
        }
        self._turns = {kind: Turns(TURNS_PER_DECODER * self._plan.decoders) for kind in self._decoders}

    async def __aenter__(self) -> Self:
        """Start the first child: it takes a second or more, which no job should wait for."""
        await self._in_child(self._plan.picture_bytes, len, "")
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the children and close the connections."""
        for decoders in self._decoders.values():
            decoders.close()
        await self._fetcher.close()

    @asynccontextmanager
    async def load(
        self,
        messages: list[Message],
        *,
        on_stage: Callable[[Stage], None],
        timings_ms: dict[str, int],
        urgency: int = 0,
        priority: Priority = Priority.DEFAULT,
    ) -> AsyncIterator[Conversation]:
        """Give the messages with decoded media in the place of references; their memory is held while the block runs.

        When one of the media fails, the others' fetches and decodes are ended, and its error is the job's.

        Args:
            messages: as the client sent them.
            on_stage: is called when fetching and decoding begin.
            timings_ms: ``fetch`` and ``decode`` are set in it.
            urgency: its rank among those that wait for memory, connections and decoders, smaller first.
            priority: its class.

        Raises:
            JobFailed: one of its media kinds; never the library's own error.
        """
        loop = asyncio.get_running_loop()
        parts = [part for message in messages for part in message.parts if not isinstance(part, TextPart)]
        async with self.memory.hold(messages, urgency) as hold:
            on_stage(Stage.FETCHING)
            began = loop.time()
            files = [self._files_of(part) for part in parts]
            raw = iter(await self._gather_files(list(chain(*files)), hold, priority=priority, rank=urgency))
            given = [(part, [next(raw) for _ in named]) for part, named in zip(parts, files, strict=True)]
            on_stage(Stage.DECODING)
            fetched = loop.time()
            async with self._turns["video" if any(isinstance(part, VideoPart) for part in parts) else "image"].take(urgency):
                decoded = iter(await gather_all([self._decode(part, *data) for part, data in given]))
            del raw, given
            timings_ms["fetch"] = round((fetched - began) * 1000)
            timings_ms["decode"] = round((loop.time() - fetched) * 1000)
            conversation = [
                {
                    "role": message.role,
                    "content": [part.model_dump() if isinstance(part, TextPart) else next(decoded) for part in message.parts],
                    **message.calls,
                }
                for message in messages
            ]
            hold.resize(pixel_bytes(conversation))
            yield conversation

    async def _gather_files(self, parts: list[MediaPart], hold: Hold, *, priority: Priority, rank: int) -> list[File]:
        """Fetch what comes from hosts, then wait for a place for all files, then read what is stored here."""
        files = dict[int, File]()
        remote = [n for n, part in enumerate(parts) if _is_address(part)]
        if remote:
            with waiting_for_hosts.one():
                gets = [
                    self._fetcher.get(reference_of(parts[n]), self._most_bytes(parts[n]), hold, priority=priority, rank=rank)
                    for n in remote
                ]
                files.update(zip(remote, await gather_all(gets), strict=True))
        stored = [n for n in range(len(parts)) if n not in files]
        arrived = sum(map(len, files.values()))
        await hold.settle(arrived + await self._stored_bytes([parts[n] for n in stored]))
        files.update(zip(stored, await gather_all([self._read(parts[n]) for n in stored]), strict=True))
        hold.resize(sum(map(len, files.values())))
        return [files[n] for n in range(len(parts))]

    async def _stored_bytes(self, parts: list[MediaPart]) -> int:
        """Say how long stored files are at most; all that came inline were in one body, and need not be asked for."""
        uploads = [part for part in parts if not reference_of(part).startswith("blob:")]
        sizes = await gather_all([self._blobs.size(blob_name(reference_of(part))) for part in uploads])
        for part, size in zip(uploads, sizes, strict=True):
            check_length(size, self._most_bytes(part))
        return sum(sizes) + (self._settings.max_body_bytes if len(uploads) < len(parts) else 0)

    async def _read(self, part: MediaPart) -> bytes:
        data = await self._blobs.get(blob_name(reference_of(part)))
        check_length(len(data), self._most_bytes(part))
        return data

    def _most_bytes(self, part: MediaPart) -> int:
        return self._settings.max_image_bytes if isinstance(part, ImagePart) else self._settings.max_media_bytes

    def _files_of(self, part: MediaPart) -> list[MediaPart]:
        """Give a part for each file: a video may come as pictures, of which at most so many are taken."""
        if isinstance(part, ImagePart) or isinstance(part.video, str):
            return [part]
        frames, most = part.video, min(self._settings.max_frames, part.max_frames or MAX_FRAMES)
        if len(frames) > most:
            frames = [frames[round(n * (len(frames) - 1) / (most - 1))] for n in range(most)]
        return [ImagePart(type="image", image=frame) for frame in frames]

    async def _decode(self, part: MediaPart, *files: File) -> dict[str, Any]:
        bounds = self._bounds(part)
        if isinstance(part, ImagePart):
            return media_part(await self._decode_picture(files[0], bounds))
        settings = self._settings
        context_px = VIDEO_SHARE_OF_CONTEXT * settings.max_model_len * self._limits.factor_px**2 / max(1, settings.limit_videos)
        total_px = min(context_px, part.total_pixels or context_px)
        if isinstance(part.video, list):
            return media_part(await self._decode_frames(part, files, frame_sampling.share(bounds, total_px, len(files))))
        sampling = frame_sampling.FrameSampling(
            part.fps or settings.video_fps,
            part.nframes,
            min(settings.max_frames, part.max_frames or settings.max_frames),
            total_px,
            min(settings.max_frames, part.min_frames or frame_sampling.MIN_FRAMES),
            part.video_start or 0.0,
            part.video_end or math.inf,
        )
        given = (PickleBuffer(files[0]), bounds, sampling)
        return media_part(await self._in_child(self._plan.video_bytes, frame_sampling.decode_video, *given, kind="video"))

    async def _decode_picture(self, data: File, bounds: pictures.Bounds) -> pictures.Pixels:
        memory_bytes = min(self._plan.picture_bytes, PICTURE_MEMORY_BYTES + BYTES_PER_SCALED_PX * bounds.max_px)
        return await self._in_child(memory_bytes, pictures.decode_image, PickleBuffer(data), bounds)

    async def _decode_frames(self, part: VideoPart, files: tuple[File, ...], bounds: pictures.Bounds) -> frame_sampling.Frames:
        first = await self._decode_picture(files[0], bounds)
        alike = replace(bounds, exact=(first.height_px, first.width_px))
        others = await gather_all([self._decode_picture(data, alike) for data in files[1:]])
        clip = frame_sampling.clip_of([first, *others], part.fps or self._settings.video_fps)
        return replace(clip, is_thinned=len(files) < len(part.video))

    async def _in_child(self, memory_bytes: int, function: Callable[..., T], *args: object, kind: Kind = "image") -> T:
        cpu_s = 2 * self._settings.decode_timeout_s  # FFmpeg has two threads
        wall_s = cpu_s if kind == "video" else self._settings.decode_timeout_s  # it stands back for pictures
        for _ in range(TRIES):
            try:
                return await self._decoders[kind].run(wall_s, memory_bytes, cpu_s, function, *args)
            except TimeoutError as error:
                msg = "a picture or video takes too long to decode"
                raise MediaTooLarge(msg) from error
            except Crashed as error:
                raise MediaUnreadable from error
            except Killed:
                log.warning("decoder.killed", kind=kind)
        raise ResourceExhausted

    def _bounds(self, part: MediaPart) -> pictures.Bounds:
        own, settings = self._limits, self._settings
        if isinstance(part, VideoPart):
            default, checkpoint = (settings.frame_min_pixels, settings.frame_max_pixels), (own.frame_min_px, own.frame_max_px)
        else:
            default, checkpoint = (settings.min_pixels, settings.max_pixels), (own.image_min_px, own.image_max_px)
        if part.resized_height and part.resized_width:
            exact = (part.resized_height, part.resized_width)
            return pictures.Bounds(own.factor_px, *checkpoint, settings.max_image_pixels, exact)
        asked = (part.min_pixels or min(default[0], part.max_pixels or default[0]), part.max_pixels or default[1])
        low, high = common_limits(asked, checkpoint)
        return pictures.Bounds(own.factor_px, low, high, settings.max_image_pixels)


def _is_address(part: MediaPart) -> bool:
    return reference_of(part).startswith(("http://", "https://"))


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


def media_part(decoded: pictures.Pixels | frame_sampling.Frames) -> dict[str, Any]:
    """Make a part of a :data:`worker.engines.base.Conversation`."""
    return (
        {"type": "video", "video": decoded}
        if isinstance(decoded, frame_sampling.Frames)
        else {"type": "image", "image": decoded}
    )


def reference_of(part: MediaPart) -> str:
    """Give what the client named one file by: an address, an upload id or a stored inline file."""
    (reference,) = references_of(part)
    return reference
