"""Pictures that move, used as videos: Pillow puts their frames together as a browser does.

Runs in the same sandbox as worker/media/pictures.py.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from worker.media.pictures import Bounds, Pixels, Source, fit, on_white, resized, to_srgb
from worker.media.pillow_modes import scalable

_FORMATS = {"image/gif": "GIF", "image/webp": "WEBP", "image/avif": "AVIF"}
#: What browsers make of a frame that says it is shown for no time.
_HASTY_MS, _USUAL_MS = 10, 100
MOST_FRAMES = 10_000


class Animation:
    """A GIF, WEBP or AVIF in memory."""

    def __init__(self, data: bytes | bytearray, media_type: str) -> None:
        """Look at the times of its frames."""
        self._data, self._format = data, _FORMATS[media_type]
        image, durations = self._open(), list[float]()
        for number in range(min(getattr(image, "n_frames", 1), MOST_FRAMES)):
            try:
                image.seek(number)
                image.load()  # only then a WEBP says how long it is shown
            except (EOFError, OSError):  # its end is missing
                if not durations:
                    raise
                break
            duration_ms = float(image.info.get("duration") or 0)
            durations.append((duration_ms if duration_ms > _HASTY_MS else _USUAL_MS) / 1000)
        self.step_s = durations[-1]
        self.times_s = [0.0, *accumulate(durations[:-1])]

    def frames(self, wanted: Sequence[int], bounds: Bounds) -> Iterator[Pixels]:
        """Decode some frames; see :meth:`worker.media.video_reader.VideoReader.frames`."""
        image = self._open()
        for number in wanted:
            image.seek(number)
            yield _scaled(image, bounds)

    def _open(self) -> Any:
        from PIL import Image

        return Image.open(io.BytesIO(self._data), formats=[self._format])


def _scaled(image: Any, bounds: Bounds) -> Pixels:
    height, width = fit(image.height, image.width, bounds)
    image.load()
    small = resized(scalable(image), (width, height), image.size)
    pixels = on_white(to_srgb(small, image.info.get("icc_profile"))).tobytes()
    return Pixels(width, height, pixels, Source(image.width, image.height))
