"""Videos: FFmpeg, through PyAV, on a stranger's bytes; a few frames of fresh RGB pixels out, as a player shows them.

Runs behind the same walls as worker/media/pictures.py.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from shared.errors import MediaTooLarge, MediaUnreadable, UnsupportedMedia
from shared.media_types import HEAD_BYTES, check_kind
from worker.media.pictures import Bounds, Pixels, fit

if TYPE_CHECKING:
    import av

MAX_DURATION_S = 600
MAX_FRAME_PX = 3840 * 2160
FRAMES_A_TOKEN = 2  #: in all of Qwen's vision encoders
MIN_FRAMES = 4  #: qwen-vl-utils 0.0.14, FPS_MIN_FRAMES
#: A gap between wanted frames above which seeking beats decoding through; keyframes stand 2-10 s apart.
SEEK_GAP_S = 4.0
#: Sniffed type -> FFmpeg's demuxer. Forced: a demuxer chosen by content would open files that a playlist names.
_DEMUXERS = {"video/mp4": "mov", "video/quicktime": "mov", "video/x-matroska": "matroska"}
_CODECS = {"h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mjpeg"}
#: Each thread holds frames of its own: 12 MB each at 4K.
_THREADS = 2


@dataclass(frozen=True)
class Frames:
    """A sampled clip: its frames in order, and how many of them there are for each second of it."""

    frames: tuple[Pixels, ...]
    sample_fps: float


@dataclass(frozen=True)
class Sampling:
    """Which frames of a clip are taken: ``nframes`` of them, or ``fps`` for each second, at most ``max_frames``.

    Where their pixels, two frames counted as one since they share tokens, would come to more than ``max_total_px``, each
    is made smaller, as qwen_vl_utils 0.0.14 does.
    """

    fps: float
    nframes: int | None
    max_frames: int
    max_total_px: float = math.inf


def decode_video(data: bytes, bounds: Bounds, sampling: Sampling) -> Frames:
    """Decode some frames of a clip, spread evenly over it; the others are never kept.

    Raises:
        UnsupportedMedia: not a video that is taken, or a codec that is not.
        MediaTooLarge: longer or larger than allowed, told before decoding.
        MediaUnreadable: damaged, or without a picture in it.
    """
    import av

    media_type = check_kind(data[:HEAD_BYTES], "video")
    try:
        # PyAV 18 refuses a file for a tag in another encoding unless told not to; PyAV 19 does not, and lacks the option.
        lenient: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}  # noqa: PLR2004
        demuxer, options = _DEMUXERS[media_type], {"protocol_whitelist": "none"}
        with av.open(io.BytesIO(data), mode="r", format=demuxer, options=options, **lenient) as container:
            return _sample(container, bounds, sampling)
    except MemoryError as error:
        msg = "a video takes more memory to decode than this service gives it; send it smaller"
        raise MediaTooLarge(msg) from error
    except (av.FFmpegError, OSError, ValueError, EOFError, RuntimeError, LookupError, ArithmeticError) as error:
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
    stream.thread_type, stream.thread_count = "AUTO", _THREADS
    duration_s, rate = _duration_s(container, stream), float(stream.average_rate or 25)
    if duration_s > MAX_DURATION_S or stream.width * stream.height > MAX_FRAME_PX:
        msg = f"a video of {duration_s:.0f} s at {stream.width} x {stream.height} px is more than this service takes"
        raise MediaTooLarge(msg)
    n_frames = _frame_count(duration_s, rate, sampling)
    bounds = _share(bounds, sampling.max_total_px, n_frames)
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


def _share(bounds: Bounds, max_total_px: float, n_frames: int) -> Bounds:
    """Make frames small enough for all of them, but no smaller than they may be.

    Source:
        The rule of qwen_vl_utils 0.0.14 ``vision_process.fetch_video``.
    """
    share_px = max(max_total_px / n_frames * FRAMES_A_TOKEN, 1.05 * bounds.min_px)
    return replace(bounds, max_px=int(min(bounds.max_px, share_px)))


def _frames_at(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, wanted_s: list[float], *, half_s: float
) -> Iterator[av.VideoFrame]:
    """Give, for each wanted instant, the frame shown then; near instants are decoded through, far ones sought."""
    start_s = float((stream.start_time or 0) * (stream.time_base or 0))
    decoder, frame, at_s, gap_s = container.decode(stream), None, -math.inf, SEEK_GAP_S
    for wanted in wanted_s:
        left_s = -math.inf
        if stream.time_base and wanted - max(at_s, 0.0) > gap_s:
            container.seek(int((wanted + start_s) / stream.time_base), stream=stream, backward=True)
            decoder, left_s, at_s = container.decode(stream), at_s, -math.inf
        while frame is None or at_s < wanted - half_s:
            following = next(decoder, None)
            if following is None:
                break
            frame, at_s = following, (following.time or 0.0) - start_s
            if at_s <= left_s:  # keyframes so far apart that seeking went back, to frames that were decoded before
                gap_s, left_s = 2 * gap_s, -math.inf
        if frame is not None:
            yield frame


def _scaled(frame: av.VideoFrame, bounds: Bounds) -> Pixels:
    if frame.width * frame.height > MAX_FRAME_PX:  # a stream may change its size under way
        msg = f"a frame of {frame.width} x {frame.height} px is more than this service takes"
        raise MediaTooLarge(msg)
    turns = round(frame.rotation / 90) % 4  # a quarter each, against the clock: phones lie on their sides
    lies = turns % 2 == 1
    height, width = fit(frame.width, frame.height, bounds) if lies else fit(frame.height, frame.width, bounds)
    size = {"width": height, "height": width} if lies else {"width": width, "height": height}
    image = frame.to_image(**size, interpolation="BICUBIC")  # type: ignore[no-untyped-call]
    if turns:
        image = image.rotate(90 * turns, expand=True)
    return Pixels(width, height, image.tobytes())
