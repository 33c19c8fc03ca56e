"""The right content at the right second, whatever the container is and says: each frame's grey tells when it was shown."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from shared.errors import MediaTooLarge, MediaUnreadable
from tests.media import RED, encode, no_real_time, patched, picture
from worker.media.frame_sampling import Frames, FrameSampling, decode_video
from worker.media.packet_times import Packets
from worker.media.pictures import Bounds, Source

BOUNDS = Bounds(28, 28 * 28, 1280 * 28 * 28, 200_000_000)
SAMPLING = FrameSampling(fps=2.0, nframes=None, max_frames=64)
RATE, STEP = 25, 2
RAMP = [STEP * n for n in range(100)]  #: 4 s, each frame a little lighter than the one before
CONTAINERS = [
    *(("avi", "mpeg4"), ("avi", "libx264"), ("avi", "mjpeg"), ("avi", "msmpeg4")),
    *(("flv", "libx264"), ("flv", "flv")),
    *(("mpegts", "libx264"), ("mpegts", "mpeg2video"), ("mpegts", "libx265")),
    *(("mpeg", "mpeg2video"), ("mpeg", "mpeg1video")),
    *(("asf", "msmpeg4"), ("asf", "wmv2")),
    *(("mp4", "libx264"), ("mp4", "libx265"), ("mp4", "mpeg4"), ("mp4", "libsvtav1"), ("3gp", "mpeg4")),
    *(("mov", "libx264"), ("mov", "prores_ks"), ("mov", "mjpeg")),
    *(("matroska", "libx264"), ("matroska", "mjpeg"), ("webm", "libvpx"), ("webm", "libvpx-vp9")),
]
OPTIONS = {
    "libx265": {"x265-params": "log-level=none"},
    "libsvtav1": {"preset": "10"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "threads": "1"},  # its threads wait for each other in a circle: 5 s
}
PIXELS = {"prores_ks": "yuv422p10le", "mjpeg": "yuvj420p"}


@no_real_time()
def film(
    container: str = "mp4",
    codec: str = "libx264",
    greys: Sequence[int] = RAMP,
    *,
    rate: int = RATE,
    start_s: float = 0,
    live: bool = False,
    **more: Any,
) -> bytes:
    """Make a clip; ``live`` writes as a recorder into a pipe does, which cannot go back to fill in a duration."""
    import av

    file, size = io.BytesIO(), more.get("size", (64, 48))

    class Pipe:
        def write(self, data: bytes) -> int:
            return file.write(bytes(data))

    with av.open(
        more.get("path") or (Pipe() if live else file), "w", format=container, options=more.get("container_options", {})
    ) as target:
        stream = target.add_stream(codec, rate=rate, options=OPTIONS.get(codec, {}))
        stream.width, stream.height, stream.pix_fmt = *size, PIXELS.get(codec, "yuv420p")
        stream.codec_context.gop_size = more.get("gop", 12)
        if codec != "libsvtav1":
            stream.bit_rate = 2_000_000
        if "aspect" in more:
            stream.codec_context.sample_aspect_ratio = more["aspect"]
        for n, grey in enumerate(greys):
            image = Image.new("RGB", size, (grey, grey, grey))
            frame = av.VideoFrame.from_image(image).reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = n + round(start_s * rate), Fraction(1, rate)
            target.mux(stream.encode(frame))
        target.mux(stream.encode())
    return file.getvalue()


def greys(frames: Frames) -> list[int]:
    return [frame.as_image().getpixel((frame.width_px // 2, frame.height_px // 2))[0] for frame in frames.frames]  # type: ignore[index]


def is_in_time(frames: Frames, *, off_frames: float = 2.5, rate: int = RATE) -> bool:
    """Compare what each frame shows with what is shown when it is said to be."""
    wanted = [STEP * time_s * rate for time_s in frames.times_s]
    return all(abs(found - grey) <= STEP * off_frames + 4 for found, grey in zip(greys(frames), wanted, strict=True))


@pytest.mark.parametrize(("container", "codec"), CONTAINERS)
@pytest.mark.parametrize("gop", [12, 1000])
def test_content_is_right_at_its_second(container: str, codec: str, gop: int) -> None:
    frames = decode_video(film(container, codec, gop=gop), BOUNDS, SAMPLING)

    assert len(frames.frames) == 8
    assert frames.times_s[0] == 0
    assert frames.times_s[-1] == pytest.approx(99 / 25, abs=0.1)
    assert is_in_time(frames)


def test_no_clip_makes_the_tests_a_real_time_process() -> None:
    film("mp4", "libsvtav1", RAMP[:10])

    assert os.sched_getscheduler(0) == os.SCHED_OTHER


@pytest.mark.parametrize(
    ("container", "codec"), [("webm", "libvpx"), ("webm", "libvpx-vp9"), ("matroska", "libx264"), ("flv", "libx264")]
)
def test_a_recorder_need_not_say_how_long_it_is(container: str, codec: str) -> None:
    frames = decode_video(film(container, codec, live=True), BOUNDS, SAMPLING)

    assert len(frames.frames) == 8
    assert is_in_time(frames)


@pytest.mark.parametrize("flags", ["frag_keyframe+empty_moov", "frag_keyframe+empty_moov+default_base_moof"])
def test_an_mp4_may_come_in_pieces(flags: str) -> None:
    assert is_in_time(decode_video(film(container_options={"movflags": flags}), BOUNDS, SAMPLING))


@pytest.mark.parametrize("container", ["mp4", "mov", "matroska", "mpegts", "flv"])
@pytest.mark.parametrize("start_s", [0.2, 7, 3000])
def test_a_clock_need_not_start_at_zero(container: str, start_s: float) -> None:
    frames = decode_video(film(container, start_s=start_s), BOUNDS, SAMPLING)

    assert len(frames.frames) == 8
    assert is_in_time(frames)


LIES: dict[str, Callable[[bytes], bytes]] = {
    "a track of no time": lambda data: patched(data, b"mdhd", 16, bytes(4)),
    "a track of an hour": lambda data: patched(data, b"mdhd", 16, struct.pack(">I", 3600 * 12_800)),
    "a film of no time": lambda data: patched(data, b"mvhd", 16, bytes(4)),
    "a film of a day": lambda data: patched(data, b"mvhd", 16, struct.pack(">I", 86_400_000)),
    "a header of no time": lambda data: patched(data, b"tkhd", 20, bytes(4)),
    "wide for ftyp": lambda data: data[:4] + b"wide" + data[8:],
    "free for ftyp": lambda data: data[:4] + b"free" + data[8:],
    "a wrong size behind it": lambda data: data + struct.pack(">I", 0xFFFF) + b"free",
    "zeros behind it": lambda data: data + bytes(5000),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("container", ["mp4", "mov"])
def test_what_a_header_says_does_not_matter(container: str, lie: str) -> None:
    frames = decode_video(LIES[lie](film(container)), BOUNDS, SAMPLING)

    assert len(frames.frames) == 8
    assert is_in_time(frames)


def test_a_clock_that_stands_still_is_let_run() -> None:
    still = patched(film(codec="mpeg4"), b"stts", 8, struct.pack(">II", 100, 0))

    frames = decode_video(still, BOUNDS, SAMPLING)

    assert len(frames.frames) >= 4
    assert all(after > before - 4 for before, after in pairwise(greys(frames)))
    assert greys(frames)[-1] > 190


def test_two_recordings_in_one_file_follow_each_other() -> None:
    whole = film("mpegts", greys=RAMP[:50]) + film("mpegts", greys=RAMP[50:])

    frames = decode_video(whole, BOUNDS, SAMPLING)

    assert frames.times_s[-1] == pytest.approx(4, abs=0.2)
    assert is_in_time(frames, off_frames=4)


@pytest.mark.parametrize("share", [0.4, 0.7, 0.95])
@pytest.mark.parametrize("container", ["matroska", "webm", "mpegts", "flv", "avi", "mpeg", "fragments", "moov first"])
def test_an_end_that_is_missing_costs_only_itself(container: str, share: float, tmp_path: Path) -> None:
    codec = {"webm": "libvpx", "mpeg": "mpeg2video", "avi": "mpeg4"}.get(container, "libx264")
    kind = {"fragments": "frag_every_frame+empty_moov", "moov first": "faststart"}
    if container in kind:
        path = tmp_path / "film.mp4"  # to put the moov first it has to be written twice
        film("mp4", container_options={"movflags": kind[container]}, path=path, size=(256, 192))
        data = path.read_bytes()
    else:
        data = film(container, codec, size=(256, 192))

    frames = decode_video(data[: int(share * len(data))], BOUNDS, SAMPLING)

    assert len(frames.frames) >= 2
    assert frames.times_s[-1] > 0.25
    assert is_in_time(frames, off_frames=4)


def test_a_hole_in_a_recording_costs_only_itself() -> None:
    data = film("mpegts")
    packets = len(data) // 188
    holed = data[: packets * 4 // 10 * 188] + data[packets * 5 // 10 * 188 :]

    assert is_in_time(decode_video(holed, BOUNDS, SAMPLING), off_frames=14)


def test_a_cover_is_no_film() -> None:
    import av
    from av.stream import Disposition

    file, cover = io.BytesIO(), picture(RED, (64, 48), "JPEG")
    with av.open(io.BytesIO(film())) as source, av.open(file, "w", format="mp4") as target:
        first = target.add_stream("mjpeg", rate=1)
        first.width, first.height, first.pix_fmt = 64, 48, "yuvj420p"
        first.disposition = Disposition.attached_pic
        second = target.add_stream_from_template(source.streams.video[0])
        packet = av.Packet(cover)
        packet.stream, packet.pts, packet.dts, packet.time_base, packet.is_keyframe = first, 0, 0, Fraction(1), True
        target.mux(packet)
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = second
                target.mux(packet)

    frames = decode_video(file.getvalue(), BOUNDS, SAMPLING)

    assert len(frames.frames) == 8
    assert is_in_time(frames)


def test_a_thumbnail_track_before_it_is_no_film_either() -> None:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as target:
        streams = [target.add_stream("mpeg4", rate=RATE) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for n, grey in enumerate(RAMP):
            for stream, shade in zip(streams, (250, grey), strict=True):
                if stream is streams[1] or n == 0:
                    frame = av.VideoFrame.from_image(Image.new("RGB", (64, 48), (shade,) * 3)).reformat(format="yuv420p")
                    frame.pts, frame.time_base = n, Fraction(1, RATE)
                    target.mux(stream.encode(frame))
        for stream in streams:
            target.mux(stream.encode())

    assert is_in_time(decode_video(file.getvalue(), BOUNDS, SAMPLING))


@pytest.mark.parametrize(
    ("aspect", "shape"),
    [(Fraction(1), (112, 112)), (Fraction(2), (224, 112)), (Fraction(1, 2), (56, 112)), (Fraction(4, 3), (140, 112))],
)
@pytest.mark.parametrize(("container", "codec"), [("mp4", "libx264"), ("matroska", "libx264"), ("mpegts", "mpeg2video")])
def test_pixels_need_not_be_square(container: str, codec: str, aspect: Fraction, shape: tuple[int, int]) -> None:
    if codec == "mpeg2video" and aspect not in {Fraction(1), Fraction(4, 3)}:
        return  # it knows a few shapes of the whole only
    frame = decode_video(film(container, codec, size=(112, 112), aspect=aspect), BOUNDS, SAMPLING).frames[0]

    assert (frame.width_px, frame.height_px) == shape
    assert frame.source == Source(112, 112)


def test_a_hand_held_camera_makes_large_frames() -> None:
    frames = decode_video(film(greys=[0, 200], rate=1, size=(5760, 2880)), BOUNDS, SAMPLING)

    assert [abs(found - grey) < 8 for found, grey in zip(greys(frames), (0, 200), strict=True)] == [True, True]


def test_what_is_too_large_says_how_large_it_may_be() -> None:
    with pytest.raises(MediaTooLarge, match=r"7680 x 4320 px .* 21 million"):
        decode_video(film(greys=[0, 200], size=(7680, 4320)), BOUNDS, SAMPLING)


@pytest.mark.parametrize(("seconds", "thinned"), [(30, False), (32, False), (33, True), (90, True)])
def test_fewer_frames_than_asked_are_told(seconds: int, thinned: bool) -> None:  # noqa: FBT001
    frames = decode_video(film(greys=[0] * 4 * seconds, rate=4, size=(32, 32)), BOUNDS, SAMPLING)

    assert frames.is_thinned == thinned
    assert len(frames.frames) == min(64, 2 * seconds)
    assert frames.sample_fps == pytest.approx(len(frames.frames) / seconds, rel=0.02)


@pytest.mark.parametrize(
    ("start_s", "end_s", "first_s", "last_s"),
    [(0, 4, 0, 3.96), (1, 3, 1, 2.96), (2.5, 100, 2.5, 3.96), (0, 0.5, 0, 0.48), (3.9, 99, 3.88, 3.96)],
)
def test_a_part_of_a_film_can_be_asked_for(start_s: float, end_s: float, first_s: float, last_s: float) -> None:
    frames = decode_video(film(), BOUNDS, FrameSampling(2.0, None, 64, start_s=start_s, end_s=end_s))

    assert frames.times_s[0] == pytest.approx(first_s, abs=0.05)
    assert frames.times_s[-1] == pytest.approx(last_s, abs=0.05)
    assert is_in_time(frames)
    if end_s - start_s == 2:
        assert len(frames.frames) == 4
        assert frames.sample_fps == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize(("start_s", "end_s"), [(4.5, 9), (50, 60)])
def test_a_part_that_is_not_there_is_refused(start_s: float, end_s: float) -> None:
    with pytest.raises(MediaUnreadable, match=r"takes 4\.0 s"):
        decode_video(film(), BOUNDS, FrameSampling(2.0, None, 64, start_s=start_s, end_s=end_s))


@pytest.mark.parametrize(("least", "most", "count"), [(4, 64, 8), (12, 64, 12), (4, 6, 6), (16, 16, 16)])
def test_how_many_frames_can_be_bounded(least: int, most: int, count: int) -> None:
    frames = decode_video(film(), BOUNDS, FrameSampling(2.0, None, most, min_frames=least))

    assert len(frames.frames) == count
    assert is_in_time(frames)


@pytest.mark.parametrize(("asked", "shown"), [((280, 420), (280, 420)), ((281, 410), (280, 420)), ((28, 28), (28, 28))])
def test_one_size_can_be_asked_for(asked: tuple[int, int], shown: tuple[int, int]) -> None:
    frame = decode_video(film(), Bounds(28, 784, 1280 * 784, 10**8, exact=asked), SAMPLING).frames[0]

    assert (frame.height_px, frame.width_px) == shown


def test_a_film_that_has_no_more_frames_is_not_thinned() -> None:
    assert not decode_video(film(greys=[0] * 8, rate=1), BOUNDS, SAMPLING).is_thinned
    assert not decode_video(film(greys=[0] * 8, rate=1), BOUNDS, FrameSampling(2.0, 768, max_frames=64)).is_thinned


def animation(image_format: str, durations_ms: Sequence[int], **options: Any) -> bytes:
    shown = [Image.new("RGB", (64, 48), (grey, grey, grey)) for grey in RAMP[: len(durations_ms)]]
    if image_format == "GIF":  # which would leave out what changes little
        shown = [image.quantize(16) for image in shown]
    more = {"save_all": True, "append_images": shown[1:], "duration": list(durations_ms)}
    return encode(shown[0], image_format, **more, **options)


@pytest.mark.parametrize(
    ("image_format", "options"),
    [("GIF", {}), ("GIF", {"disposal": 2}), ("WEBP", {}), ("WEBP", {"lossless": True}), ("AVIF", {})],
)
def test_pictures_that_move_are_films(image_format: str, options: dict[str, Any]) -> None:
    frames = decode_video(animation(image_format, [40] * 100, **options), BOUNDS, SAMPLING)

    assert len(frames.frames) == 8
    assert is_in_time(frames)


def test_each_frame_of_an_animation_takes_its_own_time() -> None:
    frames = decode_video(animation("GIF", [1000, 1000, 4000, 1000, 1000, 4000]), BOUNDS, FrameSampling(1.0, None, 64))

    assert frames.times_s == (0, 0, 1, 2, 2, 2, 2, 6, 6, 7, 8, 8)[: len(frames.times_s)] or frames.times_s[-1] == 8
    assert greys(frames) == sorted(greys(frames))


def test_a_frame_of_no_time_is_shown_as_browsers_do() -> None:
    assert decode_video(animation("GIF", [0] * 20), BOUNDS, SAMPLING).times_s[-1] == pytest.approx(1.9)


@pytest.mark.parametrize("image_format", ["GIF", "WEBP"])
def test_a_picture_that_does_not_move_is_a_short_film(image_format: str) -> None:
    frames = decode_video(picture(RED, image_format=image_format), BOUNDS, SAMPLING)

    assert len(frames.frames) == 2
    assert frames.frames[0].rgb == frames.frames[1].rgb


def test_a_clear_ground_is_white() -> None:
    clear = [Image.new("RGBA", (64, 48), (0, 0, 0, 0)) for _ in range(4)]
    for n, image in enumerate(clear):
        image.paste((255, 0, 0, 255), (n, 0, n + 8, 8))

    frames = decode_video(
        encode(clear[0], "WEBP", save_all=True, append_images=clear[1:], duration=500, lossless=True), BOUNDS, SAMPLING
    )

    assert greys(frames) == [255] * 4


def test_a_gif_without_its_end_shows_what_there_is() -> None:
    data = animation("GIF", [40] * 100)

    frames = decode_video(data[: len(data) // 2], BOUNDS, SAMPLING)

    assert is_in_time(frames)
    assert frames.times_s[-1] > 1


@pytest.mark.parametrize("container", ["avi", "flv", "mpegts", "asf"])
def test_a_start_alone_is_unreadable(container: str) -> None:
    codec = {"asf": "msmpeg4", "avi": "mpeg4"}.get(container, "libx264")

    with pytest.raises(MediaUnreadable):
        decode_video(film(container, codec)[:400], BOUNDS, SAMPLING)


# --- packets alone ---


def packets(stamps: Sequence[tuple[int | None, int | None]], keys: set[int], *, unit_s: float = 0.04) -> Packets:
    found = Packets(unit_s, 0.04)
    for n, (shown, decoded) in enumerate(stamps):
        found.add(shown, decoded, is_key=n in keys)
    found.straighten()
    return found


def test_frames_that_refer_to_later_ones_are_put_in_order() -> None:
    found = packets([(0, -2), (4, -1), (2, 0), (1, 1), (3, 2), (5, 3), (8, 4), (6, 5), (7, 6)], {0, 5})

    assert found.shown == [0, 3, 2, 4, 1, 5, 7, 8, 6]
    assert found.times_s == pytest.approx([0.04 * n for n in range(9)])
    assert [found.start_for(place) for place in found.shown] == [0, 0, 0, 0, 0, 5, 5, 5, 5]


def test_frames_before_the_key_that_they_follow_begin_at_the_one_before() -> None:
    found = packets([(0, 0), (1, 1), (4, 2), (2, 3), (3, 4), (5, 5), (6, 6)], {0, 2})

    assert [found.start_for(place) for place in found.shown] == [0, 0, 0, 0, 2, 2, 2]


def test_before_the_last_one_which_may_be_cut_in_two_another_is_decoded() -> None:
    found = packets([(n, n) for n in range(4)], {0, 1, 2, 3})

    assert [found.start_for(place) for place in found.shown] == [0, 1, 2, 2]


def test_a_clock_that_was_set_anew_goes_on() -> None:
    found = packets([(1000 + n, 1000 + n) for n in range(50)] + [(n, n) for n in range(50)], {0, 50})

    assert found.times_s == pytest.approx([0.04 * n for n in range(100)])


def test_a_long_still_scene_keeps_its_length() -> None:
    assert packets([(0, 0), (1, 1), (25 * 1800, 25 * 1800)], {0}).times_s[-1] == pytest.approx(1800)


def test_packets_without_times_follow_each_other() -> None:
    assert packets([(None, None)] * 4, {0}).times_s == pytest.approx([0, 0.04, 0.08, 0.12])
