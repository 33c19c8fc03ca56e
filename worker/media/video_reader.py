"""Videos: FFmpeg, through PyAV, with the containers and codecs that are taken.

Runs in the same sandbox as worker/media/pictures.py.
"""

from __future__ import annotations

import io
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from shared.errors import MediaTooLarge, MediaUnreadable, UnsupportedMedia
from worker.media.packet_times import Packets
from worker.media.pictures import Bounds, Pixels, Source, fit

if TYPE_CHECKING:
    import av

#: Cameras that see all around make 5,760 x 2,880; a frame of that takes 25 MB, and a decoder keeps up to a dozen.
MAX_FRAME_PX = 6144 * 3456
#: Sniffed type -> FFmpeg's demuxer. Forced: a demuxer chosen by content would open files that a playlist names.
_DEMUXERS = {
    "video/mp4": "mov",
    "video/quicktime": "mov",
    "video/x-matroska": "matroska",
    "video/x-msvideo": "avi",
    "video/x-flv": "flv",
    "video/mp2t": "mpegts",
    "video/mpeg": "mpeg",
    "video/x-ms-asf": "asf",
    "video/ogg": "ogg",
}
_CODECS = {
    *("h264", "hevc", "vp8", "vp9", "av1", "libdav1d"),
    *("mpeg4", "mjpeg", "mpeg1video", "mpeg2video", "h263", "flv", "vp6f", "theora", "prores"),
    *("msmpeg4v2", "msmpeg4", "wmv1", "wmv2", "wmv3", "vc1"),
}
#: Each thread holds frames of its own: 12 MB each at 4K.
_THREADS = 2
#: AVIs number their packets as they lie; where frames refer to later ones, only the order in which they come out is right.
_BY_ORDER = {"avi"}
MOST_PACKETS = 4_000_000  #: 18 hours of 60 frames a second


class VideoReader:
    """A video in memory, whose packets have been looked at and not decoded."""

    def __init__(self, data: bytes | bytearray, media_type: str) -> None:
        """Look at all its packets.

        Raises:
            UnsupportedMedia: a codec that is not taken.
            MediaTooLarge: its frames are too large.
            MediaUnreadable: there is no picture in it.
        """
        self._data, self._demuxer = data, _DEMUXERS[media_type]
        with self._open() as container:
            found = _look(container, _tracks(container), by_order=self._demuxer in _BY_ORDER)
            self._track = _best({track: len(packets.stamps) for track, packets in found.items()})
            stream = container.streams.video[self._track]
            _check(stream)
            aspect = stream.sample_aspect_ratio
            self._aspect = float(aspect) if aspect and 0.1 < aspect < 10 else 1.0  # noqa: PLR2004
        self.packets = found[self._track]
        self.packets.straighten()
        self.times_s = self.packets.times_s

    @property
    def step_s(self) -> float:
        """Give how long a frame is shown: the middle of what the frames take, or what the container says of a single one."""
        times = self.times_s
        steps = sorted(after - before for before, after in itertools.pairwise(times) if after > before)
        return steps[len(steps) // 2] if steps else self.packets.step_s

    def frames(self, wanted: Sequence[int], bounds: Bounds) -> Iterator[Pixels]:
        """Decode some frames.

        Args:
            wanted: their numbers in :attr:`times_s`, in order.
            bounds: how they are scaled.

        Yields:
            As many as are wanted, the last again where the file ends too early; none where nothing can be decoded.
        """
        for frame in self._decoded([self.packets.shown[number] for number in wanted]):
            yield _scaled(frame, bounds, self._aspect)

    def _decoded(self, places: list[int]) -> Iterator[av.VideoFrame]:
        """Give a frame for each packet; what lies between and is not needed for it is never decoded."""
        left, newest = deque(places), None
        for at, newest in self._outputs(left):
            while left and at >= (left[0] if self.packets.by_order else self.packets.stamps[left[0]]):
                left.popleft()
                yield newest
        if newest is not None:  # the file ends too early
            yield from [newest] * len(left)

    def _outputs(self, left: deque[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode, and give each frame with where it stands.

        Args:
            left: places of packets whose frames are still wanted; what the first of them does not need is left out.
        """
        with self._open() as container:
            stream = container.streams.video[self._track]
            stream.thread_type, stream.thread_count = "AUTO", _THREADS
            is_idle, at = True, 0
            packets = itertools.islice(_demux(container, [stream]), len(self.packets.stamps))
            for place, packet in enumerate(itertools.chain(packets, [None])):
                if not left or (is_idle and packet is None):
                    return
                if is_idle and place < self.packets.start_for(left[0]):
                    continue
                if is_idle:
                    stream.codec_context.flush_buffers()
                    is_idle, at = False, place
                if packet is not None:
                    packet.pts = packet.dts = self.packets.stamps[place]
                for frame in _frames(stream.codec_context, packet):
                    yield (at if self.packets.by_order else frame.pts or 0), frame
                    at += 1
                is_idle = bool(left) and self.packets.start_for(left[0]) > place + 1

    @contextmanager
    def _open(self) -> Iterator[av.container.InputContainer]:
        import av

        # PyAV 18 refuses a file for a tag in another encoding unless asked not to; PyAV 19 does not, and lacks the option.
        lenient: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}  # noqa: PLR2004
        options = {"protocol_whitelist": "none"}
        with av.open(io.BytesIO(self._data), mode="r", format=self._demuxer, options=options, **lenient) as container:
            yield container


def _tracks(container: av.container.InputContainer) -> list[av.video.stream.VideoStream]:
    """Give the tracks with moving pictures: no cover, no thumbnail."""
    from av.stream import Disposition

    still = Disposition.attached_pic | Disposition.timed_thumbnails
    tracks = [stream for stream in container.streams.video if not stream.disposition & still]
    if not tracks:
        msg = "there is no picture track in the video"
        raise MediaUnreadable(msg)
    return tracks


def _demux(container: av.container.InputContainer, tracks: list[av.video.stream.VideoStream]) -> Iterator[Any]:
    """Give packets for as long as the file makes sense."""
    import av

    try:
        for packet in container.demux(tracks):
            if packet.size:
                yield packet
    except av.FFmpegError:
        return


def _frames(decoder: av.video.codeccontext.VideoCodecContext, packet: Any) -> list[av.VideoFrame]:
    """Decode a packet, or with None what is still inside; what is damaged is left out, as players do."""
    import av

    for _ in range(_THREADS + 1 if packet is None else 1):  # at the end each thread may have its own complaint
        try:
            return [frame for frame in decoder.decode(packet) if not frame.is_corrupt]
        except av.FFmpegError:
            continue
    return []


def _look(
    container: av.container.InputContainer, tracks: list[av.video.stream.VideoStream], *, by_order: bool
) -> dict[int, Packets]:
    """Look at all packets of some tracks; gives them by the tracks' places among those with pictures."""
    places = {track.index: n for n, track in enumerate(container.streams.video)}
    found = {
        places[track.index]: Packets(float(track.time_base or 0.001), 1 / float(track.average_rate or 25), by_order)
        for track in tracks
    }
    for packet in itertools.islice(_demux(container, tracks), MOST_PACKETS):
        found[places[packet.stream_index]].add(packet.pts, packet.dts, is_key=packet.is_keyframe)
    return found


def _best(lengths: dict[int, int]) -> int:
    """Choose the first track that is about as long as the longest; a preview has few frames."""
    longest = max(lengths.values())
    if not longest:
        msg = "no frame of the video could be decoded"
        raise MediaUnreadable(msg)
    return next(track for track, length in lengths.items() if 2 * length > longest)


def _check(stream: av.video.stream.VideoStream) -> None:
    codec = getattr(stream.codec_context, "name", "an unknown codec")  # PyAV gives None where FFmpeg has no decoder
    if codec not in _CODECS:
        msg = f"videos coded with {codec} are not taken; use H.264, HEVC, VP8, VP9 or AV1"
        raise UnsupportedMedia(msg)
    _check_frame(stream.width, stream.height)


def _check_frame(width_px: int, height_px: int) -> None:
    if width_px * height_px > MAX_FRAME_PX:
        msg = (
            f"a video of {width_px} x {height_px} px is larger than this service takes, {MAX_FRAME_PX // 10**6} million "
            "pixels to a frame; send it scaled down"
        )
        raise MediaTooLarge(msg)


def _scaled(frame: av.VideoFrame, bounds: Bounds, aspect: float) -> Pixels:
    _check_frame(frame.width, frame.height)  # a stream may change its size under way
    turns = round(frame.rotation / 90) % 4  # a quarter each, against the clock: phones lie on their sides
    lies = turns % 2 == 1
    wide, high = max(1, round(frame.width * aspect)), frame.height
    height, width = fit(wide, high, bounds) if lies else fit(high, wide, bounds)
    size = {"width": height, "height": width} if lies else {"width": width, "height": height}
    image = frame.to_image(**size, interpolation="BICUBIC")  # type: ignore[no-untyped-call]
    if turns:
        image = image.rotate(90 * turns, expand=True)
    return Pixels(width, height, image.tobytes(), Source(frame.width, frame.height, -90 * turns % 360))
