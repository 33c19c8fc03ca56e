"""Pictures and clips made on the spot, whose every pixel is known."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

Colour = tuple[int, int, int]

RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 200, 60), (30, 60, 220), (255, 255, 255)


def encode(image: Any, image_format: str = "PNG", **options: Any) -> bytes:
    """Write a PIL image as a file."""
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def picture(colour: Colour = RED, size: tuple[int, int] = (64, 48), image_format: str = "PNG", **options: Any) -> bytes:
    """Make a picture of one colour; ``size`` is width, height."""
    from PIL import Image

    return encode(Image.new("RGB", size, colour), image_format, **options)


def heic(image: Any = None, **options: Any) -> bytes:
    """Write a PIL image as phones do; left out, a red one."""
    import pillow_heif
    from PIL import Image

    file = io.BytesIO()
    pillow_heif.from_pillow(image or Image.new("RGB", (64, 48), RED)).save(file, **({"quality": 90} | options))
    return file.getvalue()


@contextmanager
def no_real_time() -> Iterator[None]:
    """Take back what SVT-AV1 does to a process of root: it makes it a real-time one, for which all others wait."""
    policy, param = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, param)


def patched(data: bytes, box: bytes, offset: int, value: bytes) -> bytes:
    """Overwrite something in an MP4 or its like, so many bytes behind a box's name."""
    changed = bytearray(data)
    at = changed.index(box) + len(box) + offset
    changed[at : at + len(value)] = value
    return bytes(changed)


def data_url(data: bytes, media_type: str = "image/png") -> str:
    """Put a file into a data-URL."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def clip(
    greys: Sequence[int], *, rate: int | Fraction = 10, size: tuple[int, int] = (64, 48), container: str = "mp4", **streams: Any
) -> bytes:
    """Make a clip whose n-th frame is a plain grey of ``greys[n]``; the colour tells which frame was taken."""
    import av
    import numpy as np

    file = io.BytesIO()
    with av.open(file, "w", format=container) as target:
        stream = target.add_stream(streams.get("codec", "libx264"), rate=rate, options=streams.get("options", {}))
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.time_base = 1 / Fraction(rate)
        if "gop" in streams:
            stream.codec_context.gop_size = streams["gop"]
        for grey in greys:
            array = np.full((size[1], size[0], 3), grey, dtype=np.uint8)
            target.mux(stream.encode(av.VideoFrame.from_ndarray(array, "rgb24")))
        target.mux(stream.encode())
    return file.getvalue()


def sound() -> bytes:
    """Make an MP4 with a sound track and no pictures."""
    import av
    import numpy as np

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as target:
        stream = target.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        target.mux(stream.encode(frame))
        target.mux(stream.encode())
    return file.getvalue()
