"""Decoding in a process of its own: Pillow and PyAV on a stranger's bytes, fresh RGB pixels out.

Runs in the decode pool's children. Imports neither torch nor the rest of the worker, so that a child starts fast, stays
small, and can be killed at any time.
"""

from __future__ import annotations

import io
import math
import resource
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shared.errors import MediaTooLarge, MediaUnreadable, UnsupportedMedia
from shared.media_types import HEAD_BYTES, kind_of, sniff

if TYPE_CHECKING:
    import av
    from PIL.Image import Image as PIL_Image

MAX_ASPECT = 200  #: qwen-vl-utils 0.0.14 refuses more
MAX_SIDE_PX = 16_384
MAX_DURATION_S = 600
MAX_FRAME_PX = 3840 * 2160
MIN_FRAMES = 4  #: qwen-vl-utils 0.0.14, FPS_MIN_FRAMES
#: A gap between wanted frames above which seeking beats decoding through; keyframes stand 2-10 s apart.
SEEK_GAP_S = 4.0
#: EXIF orientations of pictures that lie on a side.
_LYING = {5, 6, 7, 8}
_PICTURE_FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP", "image/gif": "GIF"}
#: Sniffed type -> FFmpeg's demuxer. Forced: a demuxer chosen by content would open files that a playlist names.
_DEMUXERS = {"video/mp4": "mov", "video/quicktime": "mov", "video/x-matroska": "matroska"}
_CODECS = {"h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mjpeg"}


@dataclass(frozen=True)
class Pixels:
    """One decoded picture: ``rgb`` holds height x width x 3 bytes."""

    width_px: int
    height_px: int
    rgb: bytes


@dataclass(frozen=True)
class Frames:
    """A sampled clip: its frames in order, and how many of them there are for each second of it."""

    frames: tuple[Pixels, ...]
    sample_fps: float


@dataclass(frozen=True)
class Bounds:
    """How a picture or frame is scaled, in pixels, and how large the original may be."""

    factor_px: int
    min_px: int
    max_px: int
    max_source_px: int


@dataclass(frozen=True)
class Sampling:
    """Which frames of a clip are taken: ``nframes`` of them, or ``fps`` for each second, at most ``max_frames``."""

    fps: float
    nframes: int | None
    max_frames: int


def limit_process(memory_bytes: int) -> None:
    """Set this process's own limits, so that a hostile file ends a child and not the machine."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def fit(height_px: int, width_px: int, *, factor_px: int, min_px: int, max_px: int) -> tuple[int, int]:
    """Scale a size into the limits, on the grid of the vision encoder.

    Args:
        height_px: height after EXIF rotation.
        width_px: width.
        factor_px: both sides come out as multiples of this.
        min_px: least height x width.
        max_px: most height x width.

    Returns:
        ``(height_px, width_px)``, the aspect ratio kept as closely as the grid allows.

    Raises:
        MediaUnreadable: an aspect ratio above 200.

    Source:
        The rule of qwen_vl_utils 0.0.14 ``vision_process.smart_resize``; a test compares the two.
    """
    if max(height_px, width_px) > MAX_ASPECT * min(height_px, width_px):
        msg = f"a picture of {width_px} x {height_px} px is too narrow; at most {MAX_ASPECT} : 1 is taken"
        raise MediaUnreadable(msg)
    height = max(factor_px, round(height_px / factor_px) * factor_px)
    width = max(factor_px, round(width_px / factor_px) * factor_px)
    if height * width > max_px:
        scale = math.sqrt(height_px * width_px / max_px)
        height = max(factor_px, math.floor(height_px / scale / factor_px) * factor_px)
        width = max(factor_px, math.floor(width_px / scale / factor_px) * factor_px)
    elif height * width < min_px:
        scale = math.sqrt(min_px / (height_px * width_px))
        height = math.ceil(height_px * scale / factor_px) * factor_px
        width = math.ceil(width_px * scale / factor_px) * factor_px
    return height, width


def decode_image(data: bytes, bounds: Bounds) -> Pixels:
    """Decode a picture as a viewer shows it: first frame, upright, transparency on white.

    Raises:
        UnsupportedMedia: not a picture that is taken.
        MediaTooLarge: more pixels than allowed, told from the header.
        MediaUnreadable: damaged.
    """
    from PIL import Image, ImageOps

    media_type = sniff(data[:HEAD_BYTES])
    if media_type is None or kind_of(media_type) != "image":
        raise UnsupportedMedia
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=[_PICTURE_FORMATS[media_type]])
            if image.width * image.height > bounds.max_source_px or max(image.size) > MAX_SIDE_PX:
                msg = f"a picture of {image.width} x {image.height} px is larger than this service takes"
                raise MediaTooLarge(msg)
            height, width = _target(image.height, image.width, image.getexif().get(0x0112, 1), bounds)
            image.draft("RGB", (2 * max(height, width),) * 2)  # half-decoded JPEG, still twice the target
            image.seek(0)
            upright = ImageOps.exif_transpose(image)
            rgb = _on_white(upright)
    except Image.DecompressionBombError as error:  # Pillow's own limit, for headers that are beyond all reason
        msg = "a picture is larger than this service takes"
        raise MediaTooLarge(msg) from error
    except (OSError, SyntaxError, ValueError, TypeError, EOFError, MemoryError, struct.error) as error:
        msg = "a picture is damaged and cannot be decoded"
        raise MediaUnreadable(msg) from error
    scaled = rgb.resize((width, height), Image.Resampling.BICUBIC)
    return Pixels(width, height, scaled.tobytes())


def _target(height_px: int, width_px: int, orientation: int, bounds: Bounds) -> tuple[int, int]:
    if orientation in _LYING:
        height_px, width_px = width_px, height_px
    return fit(height_px, width_px, factor_px=bounds.factor_px, min_px=bounds.min_px, max_px=bounds.max_px)


def _on_white(image: PIL_Image) -> PIL_Image:
    from PIL import Image

    if image.mode in {"I;16", "I;16B", "I;16L", "I"}:
        image = image.point(lambda value: value / 256).convert("L")
    if "A" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def decode_video(data: bytes, bounds: Bounds, sampling: Sampling) -> Frames:
    """Decode some frames of a clip, spread evenly over it; the others are never kept.

    Raises:
        UnsupportedMedia: not a video that is taken, or a codec that is not.
        MediaTooLarge: longer or larger than allowed, told before decoding.
        MediaUnreadable: damaged, or without a picture in it.
    """
    import av

    media_type = sniff(data[:HEAD_BYTES])
    if media_type is None or kind_of(media_type) != "video":
        raise UnsupportedMedia
    try:
        # PyAV 18 refuses a file for a tag in another encoding unless told not to; PyAV 19 does not, and lacks the option.
        lenient: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}  # noqa: PLR2004
        demuxer, options = _DEMUXERS[media_type], {"protocol_whitelist": "none"}
        with av.open(io.BytesIO(data), mode="r", format=demuxer, options=options, **lenient) as container:
            return _sample(container, bounds, sampling)
    except (av.FFmpegError, OSError, ValueError, EOFError, IndexError, MemoryError) as error:
        msg = "a video is damaged and cannot be decoded"
        raise MediaUnreadable(msg) from error


def _sample(container: av.container.InputContainer, bounds: Bounds, sampling: Sampling) -> Frames:
    if not container.streams.video:
        msg = "there is no picture track in the video"
        raise MediaUnreadable(msg)
    stream = container.streams.video[0]
    codec = getattr(stream.codec_context, "name", "an unknown codec")  # PyAV gives None where FFmpeg has no decoder
    if codec not in _CODECS:
        msg = f"videos coded with {codec} are not taken; use H.264, HEVC, VP8, VP9 or AV1"
        raise UnsupportedMedia(msg)
    stream.thread_type = "AUTO"
    duration_s, rate = _duration_s(container, stream), float(stream.average_rate or 25)
    if duration_s > MAX_DURATION_S or stream.width * stream.height > MAX_FRAME_PX:
        msg = f"a video of {duration_s:.0f} s at {stream.width} x {stream.height} px is more than this service takes"
        raise MediaTooLarge(msg)
    n_frames = _frame_count(duration_s, rate, sampling)
    last_s = max(0.0, duration_s - 1 / rate)
    wanted = [last_s * i / (n_frames - 1) for i in range(n_frames)]
    frames = tuple(_scaled(frame, bounds) for frame in _frames_at(container, stream, wanted, half_s=0.5 / rate))
    if not frames:
        msg = "no frame of the video could be decoded"
        raise MediaUnreadable(msg)
    return Frames(frames, sample_fps=n_frames / max(duration_s, 1 / rate))


def _duration_s(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if container.duration:
        return container.duration / 1_000_000
    msg = "the video does not say how long it is"
    raise MediaUnreadable(msg)


def _frame_count(duration_s: float, rate: float, sampling: Sampling) -> int:
    wanted = sampling.nframes or round(duration_s * min(sampling.fps, rate))
    there = max(2, int(duration_s * rate + 0.5))
    count = max(MIN_FRAMES, min(wanted, sampling.max_frames))
    return max(2, min(count, there) // 2 * 2)


def _frames_at(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, wanted_s: list[float], *, half_s: float
) -> Iterator[av.VideoFrame]:
    """Give, for each wanted instant, the frame shown then; near instants are decoded through, far ones sought."""
    start_s = float((stream.start_time or 0) * (stream.time_base or 0))
    decoder, frame, at_s = container.decode(stream), None, -math.inf
    for wanted in wanted_s:
        if wanted - max(at_s, 0.0) > SEEK_GAP_S and stream.time_base:
            container.seek(int((wanted + start_s) / stream.time_base), stream=stream, backward=True)
            decoder = container.decode(stream)
        while frame is None or at_s < wanted - half_s:
            following = next(decoder, None)
            if following is None:
                break
            frame, at_s = following, (following.time or 0.0) - start_s
        if frame is not None:
            yield frame


def _scaled(frame: av.VideoFrame, bounds: Bounds) -> Pixels:
    height, width = fit(frame.height, frame.width, factor_px=bounds.factor_px, min_px=bounds.min_px, max_px=bounds.max_px)
    image = frame.to_image(width=width, height=height, interpolation="BICUBIC")  # type: ignore[no-untyped-call]
    return Pixels(width, height, image.tobytes())
