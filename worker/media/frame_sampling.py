"""Videos: a few frames of fresh RGB pixels out of a stranger's bytes, as a player shows them, spread evenly over all of it.

Runs in the same sandbox as worker/media/pictures.py.
"""

from __future__ import annotations

import math
import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from shared.errors import MediaTooLarge, MediaUnreadable
from shared.media_types import HEAD_BYTES, MOVING, check_kind
from worker.media.animations import Animation
from worker.media.pictures import DAMAGED, Bounds, Pixels
from worker.media.video_reader import VideoReader

FRAMES_A_TOKEN = 2  #: in all of Qwen's vision encoders
MIN_FRAMES = 4  #: qwen-vl-utils 0.0.14, FPS_MIN_FRAMES


@dataclass(frozen=True)
class Frames:
    """A sampled clip: its frames in order, how many of them there are for each second of it, and when each is shown.

    ``is_thinned`` says that there are more in it, and more were asked for, than one job takes.
    """

    frames: tuple[Pixels, ...]
    sample_fps: float
    times_s: tuple[float, ...] = ()
    is_thinned: bool = False


@dataclass(frozen=True)
class FrameSampling:
    """Which frames of a clip are taken: ``nframes`` of them, or ``fps`` for each second, at most ``max_frames``.

    Where their pixels, two frames counted as one since they share tokens, would come to more than ``max_total_px``, each
    is made smaller, as qwen_vl_utils 0.0.14 does. Only what is shown from ``start_s`` to ``end_s`` counts.
    """

    fps: float
    nframes: int | None
    max_frames: int
    max_total_px: float = math.inf
    min_frames: int = MIN_FRAMES
    start_s: float = 0.0
    end_s: float = math.inf


def decode_video(data: bytes, bounds: Bounds, sampling: FrameSampling) -> Frames:
    """Decode some frames of a clip, spread evenly over it; the others are never kept.

    Raises:
        UnsupportedMedia: not a video that is taken, or a codec that is not.
        MediaTooLarge: its frames are larger than allowed, or take too much memory.
        MediaUnreadable: damaged, or without a picture in it.
    """
    import av
    from PIL import Image

    media_type = check_kind(bytes(data[:HEAD_BYTES]), "video")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of what viewers overlook
            reel = Animation(data, media_type) if media_type in MOVING else VideoReader(data, media_type)
            return _sample(reel, bounds, sampling)
    except Image.DecompressionBombError as error:  # raised by Pillow, for a picture that moves and is beyond all reason
        msg = "a video is larger than this service takes"
        raise MediaTooLarge(msg) from error
    except MemoryError as error:
        msg = "a video takes more memory to decode than this service gives it; send it smaller"
        raise MediaTooLarge(msg) from error
    except (av.FFmpegError, *DAMAGED) as error:
        msg = "a video is damaged and cannot be decoded"
        raise MediaUnreadable(msg) from error


def _sample(reel: VideoReader | Animation, bounds: Bounds, sampling: FrameSampling) -> Frames:
    first, times, duration_s = _cut(reel, sampling)
    asked = min(max(2, len(times)), sampling.nframes or round(duration_s * sampling.fps))
    count = max(sampling.min_frames, min(asked, sampling.max_frames))
    count = max(2, min(count, len(times)) // 2 * 2)  # two share their tokens
    spread = ((times[-1] - times[0]) * i / (count - 1) + times[0] for i in range(count))
    wanted = [bisect_right(times, time_s + reel.step_s / 2) - 1 for time_s in spread]
    frames = tuple(reel.frames([first + number for number in wanted], share(bounds, sampling.max_total_px, count)))
    if not frames:
        msg = "no frame of the video could be decoded"
        raise MediaUnreadable(msg)
    times_s = tuple(round(times[number], 3) for number in wanted)
    return Frames(frames, count / duration_s, times_s, is_thinned=asked > max(sampling.min_frames, sampling.max_frames))


def _cut(reel: VideoReader | Animation, sampling: FrameSampling) -> tuple[int, list[float], float]:
    """Give the number of the first frame that counts, the times of all that do, and how long they take together."""
    times = reel.times_s
    end_s = times[-1] + reel.step_s
    first = max(0, bisect_right(times, sampling.start_s + reel.step_s / 2) - 1)
    last = bisect_left(times, sampling.end_s) if sampling.end_s < end_s else len(times)
    if sampling.start_s >= end_s or last <= first:
        msg = f"the video takes {end_s:.1f} s; there is nothing in it from video_start to video_end"
        raise MediaUnreadable(msg)
    return first, times[first:last], (min(end_s, times[last]) if last < len(times) else end_s) - times[first]


def clip_of(pictures: Sequence[Pixels], fps: float) -> Frames:
    """Make a clip of frames that come one by one, all of one size; the last is shown twice where their number is odd.

    Args:
        pictures: in order.
        fps: how many of them there are for each second.
    """
    frames = (*pictures, *pictures[-1:]) if len(pictures) % FRAMES_A_TOKEN else tuple(pictures)
    return Frames(frames, fps, tuple(round(n / fps, 3) for n in range(len(frames))))


def share(bounds: Bounds, max_total_px: float, n_frames: int) -> Bounds:
    """Make frames small enough for all of them, but no smaller than they may be.

    Source:
        The rule of qwen_vl_utils 0.0.14 ``vision_process.fetch_video``.
    """
    share_px = max(max_total_px / n_frames * FRAMES_A_TOKEN, 1.05 * bounds.min_px)
    return replace(bounds, max_px=int(min(bounds.max_px, share_px)))
