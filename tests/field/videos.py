"""Videos of every container that recorders, cameras and programs write, with what these leave out or get wrong."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import cycle
from typing import Any

from PIL import Image

from demo.scenes import clip
from tests.field.table import Answer, Door, Row, says, send
from tests.media import encode, no_real_time, patched

FAMILY = "videos"
CLIPS = range(16)  #: that the demo model describes rightly as they are drawn
DOORS: tuple[Door, ...] = ("chat", "job", "upload")
RATE = 8
Frames = list[Image.Image]
Write = Callable[[Frames], bytes]
PIXELS = {"prores_ks": "yuv422p10le", "mjpeg": "yuvj420p"}
OPTIONS = {"libx265": {"x265-params": "log-level=none"}, "libsvtav1": {"preset": "10"}}
CONTAINERS = [
    *(("mp4", "libx264"), ("mp4", "libx265"), ("mp4", "mpeg4"), ("mp4", "libsvtav1"), ("3gp", "mpeg4")),
    *(("mov", "libx264"), ("mov", "prores_ks"), ("mov", "mjpeg"), ("mov", "libx265")),
    *(("matroska", "libx264"), ("matroska", "libx265"), ("matroska", "mpeg4"), ("matroska", "mjpeg")),
    *(("webm", "libvpx"), ("webm", "libvpx-vp9"), ("webm", "libsvtav1")),
    *(("avi", "mpeg4"), ("avi", "libx264"), ("avi", "mjpeg"), ("avi", "msmpeg4"), ("avi", "msmpeg4v2")),
    *(("flv", "libx264"), ("flv", "flv"), ("asf", "msmpeg4"), ("asf", "wmv2"), ("asf", "wmv1")),
    *(("mpegts", "libx264"), ("mpegts", "mpeg2video"), ("mpegts", "libx265")),
    *(("mpeg", "mpeg2video"), ("mpeg", "mpeg1video")),
]


@no_real_time()
def film(container: str, codec: str, frames: Frames, *, start_s: float = 0, live: bool = False, **more: Any) -> bytes:
    """Encode frames; ``live`` writes as a recorder into a pipe does, which cannot go back to fill in a duration."""
    import av

    file, rate = io.BytesIO(), more.get("rate", 25 if codec in {"mpeg2video", "mpeg1video"} else RATE)
    if rate != RATE and "rate" not in more:
        frames = [frames[n * RATE // rate] for n in range(len(frames) * rate // RATE)]

    class Pipe:
        def write(self, data: bytes) -> int:
            return file.write(bytes(data))

    with av.open(Pipe() if live else file, "w", format=container, options=more.get("options", {})) as target:
        stream = target.add_stream(codec, rate=rate, options=OPTIONS.get(codec, {}))
        stream.width, stream.height, stream.pix_fmt = *frames[0].size, PIXELS.get(codec, "yuv420p")
        stream.codec_context.gop_size = more.get("gop", 12)
        if codec != "libsvtav1":
            stream.bit_rate = 2_000_000
        if "aspect" in more:
            stream.codec_context.sample_aspect_ratio = more["aspect"]
        if turn := more.get("turn"):
            stream.set_display_rotation(turn)
        for n, image in enumerate(frames):
            frame = av.VideoFrame.from_image(image).reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = n + round(start_s * rate), Fraction(1, rate)
            target.mux(stream.encode(frame))
        target.mux(stream.encode())
    return file.getvalue()


def rows() -> Iterator[Row]:
    """Give the rows, each about another clip and by another door than the one before."""
    seeds, doors = cycle(CLIPS), cycle(DOORS)
    for name, write in ways().items():
        drawn = clip(next(seeds))
        yield Row(FAMILY, name, send(write(drawn.frames), "video", next(doors)), says(drawn.truth))
    yield from _long()


def ways() -> dict[str, Write]:
    """Name each way to write a video."""
    return {**_containers(), **_recorders(), **_lies(), **_shapes(), **_cut(), **_moving()}


def _as(container: str, codec: str, **more: Any) -> Write:
    return lambda frames: film(container, codec, frames, **more)


def _containers() -> dict[str, Write]:
    found = {f"{container}, {codec}": _as(container, codec) for container, codec in CONTAINERS}
    lone = [pair for pair in CONTAINERS if pair[1] not in {"mjpeg", "prores_ks", "libsvtav1"}]
    return found | {f"{container}, {codec}, one key": _as(container, codec, gop=1000) for container, codec in lone[::2]}


def _recorders() -> dict[str, Write]:
    kinds = [("webm", "libvpx"), ("webm", "libvpx-vp9"), ("matroska", "libx264"), ("flv", "libx264"), ("mpegts", "libx264")]
    found = {f"{container}, {codec}, live": _as(container, codec, live=True) for container, codec in kinds}
    pieces = ("frag_keyframe+empty_moov", "frag_every_frame+empty_moov", "frag_keyframe+empty_moov+default_base_moof")
    found |= {f"mp4 in pieces, {flags}": _as("mp4", "libx264", options={"movflags": flags}) for flags in pieces}
    starts = [("mp4", 0.5), ("mp4", 20), ("mov", 5), ("matroska", 9), ("mpegts", 300), ("flv", 60)]
    return found | {f"{name} that begins at {start_s} s": _as(name, "libx264", start_s=start_s) for name, start_s in starts}


def _lies() -> dict[str, Write]:
    changes: dict[str, Callable[[bytes], bytes]] = {
        "a track of no time": lambda data: patched(data, b"mdhd", 16, bytes(4)),
        "a track of an hour": lambda data: patched(data, b"mdhd", 16, struct.pack(">I", 0x02FFFFFF)),
        "a film of no time": lambda data: patched(data, b"mvhd", 16, bytes(4)),
        "a film of a day": lambda data: patched(data, b"mvhd", 16, struct.pack(">I", 86_400_000)),
        "wide for ftyp": lambda data: data[:4] + b"wide" + data[8:],
        "free for ftyp": lambda data: data[:4] + b"free" + data[8:],
        "zeros behind it": lambda data: data + bytes(10_000),
    }

    def lie(container: str, change: Callable[[bytes], bytes]) -> Write:
        return lambda frames: change(film(container, "libx264", frames))

    return {f"{container}, {name}": lie(container, change) for container in ("mp4", "mov") for name, change in changes.items()}


def _shapes() -> dict[str, Write]:
    def squeezed(container: str, codec: str) -> Write:
        return lambda frames: film(
            container, codec, [frame.resize((frame.width // 4 * 2, frame.height)) for frame in frames], aspect=Fraction(2)
        )

    def turned(container: str, turn: int) -> Write:
        return lambda frames: film(container, "libx264", [frame.rotate(-turn, expand=True) for frame in frames], turn=turn)

    def scaled(by: float) -> Write:
        def write(frames: Frames) -> bytes:
            sizes = [(round(frame.width * by) // 2 * 2, round(frame.height * by) // 2 * 2) for frame in frames]
            return film("mp4", "libx264", [frame.resize(size) for frame, size in zip(frames, sizes, strict=True)][::4], rate=2)

        return write

    kinds = [("mp4", "libx264"), ("mov", "libx264"), ("matroska", "libx264"), ("avi", "libx264")]
    found = {f"{container}, pixels twice as wide as high": squeezed(container, codec) for container, codec in kinds[:3]}
    found |= {
        f"{container}, turned by {turn}": turned(container, turn) for container in ("mp4", "mov") for turn in (90, 180, -90)
    }
    return found | {f"mp4, {by} times as large": scaled(by) for by in (4, 8, 14)}


def _cut() -> dict[str, Write]:
    def cut(container: str, codec: str, share: float, **more: Any) -> Write:
        return lambda frames: (data := film(container, codec, frames, **more))[: int(share * len(data))]

    kinds = [("matroska", "libx264"), ("webm", "libvpx"), ("mpegts", "libx264"), ("flv", "libx264"), ("avi", "mpeg4")]
    found = {f"{kind}, {share:.0%} of it": cut(kind, codec, share) for kind, codec in kinds for share in (0.7, 0.95)}
    found |= {"mpeg, 80% of it": cut("mpeg", "mpeg2video", 0.8), "mpegts, its start missing": _late}
    flags = {"movflags": "frag_every_frame+empty_moov"}
    return found | {"mp4 in pieces, 80% of it": cut("mp4", "libx264", 0.8, options=flags)}


def _late(frames: Frames) -> bytes:
    data = film("mpegts", "libx264", frames)
    return data[len(data) // 188 // 6 * 188 :]


def _moving() -> dict[str, Write]:
    def moving(image_format: str, **options: Any) -> Write:
        def write(frames: Frames) -> bytes:
            shown = [frame.quantize(128) for frame in frames] if image_format == "GIF" else frames
            return encode(shown[0], image_format, save_all=True, append_images=shown[1:], duration=1000 // RATE, **options)

        return write

    found = {"GIF": moving("GIF"), "GIF, for ever": moving("GIF", loop=0), "GIF, each put anew": moving("GIF", disposal=2)}
    found |= {"WEBP": moving("WEBP"), "WEBP, lossless": moving("WEBP", lossless=True), "AVIF": moving("AVIF", speed=10)}
    return {f"{name} that moves": write for name, write in found.items()}


def _long() -> Iterator[Row]:
    """Give films longer than one job takes: they are sampled, and that is said."""
    for seconds in (40, 660, 5400):
        grey = [Image.new("RGB", (64, 48), (n * 255 // 120,) * 3) for n in range(120)]
        data = film("mp4", "libx264", grey, rate=Fraction(120, seconds))
        yield Row(FAMILY, f"mp4 of {seconds} s", send(data, "video", "job"), _is_sampled(seconds))


def _is_sampled(seconds: int) -> Callable[[Answer], str]:
    def judge(answer: Answer) -> str:
        output = answer.body.get("output", {})
        (medium,) = output.get("media", [None])
        if not medium or medium["frames"] != 64:
            return f"not 64 frames: {medium}"
        if abs(medium["times_s"][-1] - seconds * 119 / 120) > seconds / 100:
            return f"the last frame is of {medium['times_s'][-1]} s"
        return "" if output["warnings"] == ["frames_thinned"] else "does not say so"

    return judge
