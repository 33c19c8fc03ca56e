"""JPEG: scaled while it is decoded, and shown as far as it goes where its end is missing.

Runs in the decoders' sandbox, see worker/media/sandbox.py.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from shared.errors import MediaUnreadable
from worker.media.picture_reader import MAX_WHOLE_PX, PillowReader

if TYPE_CHECKING:
    from PIL.Image import Image as PIL_Image

#: Of a JPEG without its end so much may be missing; of a half nobody can say what it shows.
_MAX_MISSING = 0.25
_BLOCK_PX, _GREY = 16, 128


class JpegReader(PillowReader):
    """A JPEG, or one with more pictures behind it: scaled by two, four or eight while it is decoded."""

    def __init__(self, data: bytes | memoryview) -> None:
        """Read the header."""
        self._data = data
        super().__init__(data, "JPEG")

    def shrunk(self, size: tuple[int, int]) -> tuple[PIL_Image, tuple[float, float]]:
        """See :class:`PictureReader`."""
        from PIL import Image, ImageFile

        self._draft(size)
        try:
            return super().shrunk(size)
        except OSError as error:
            if "truncated" not in str(error):
                raise
        self._image = Image.open(io.BytesIO(self._data), formats=["JPEG"])
        self._draft(size)
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            image, used = super().shrunk(size)
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        self.lacks_end = True
        if (there := _rows_there(image)) is None:
            return image, used
        if (missing := 1 - there / image.height) > _MAX_MISSING:
            msg = f"a picture's end is missing, and with it {missing:.0%} of its rows"
            raise MediaUnreadable(msg)
        _go_on(image, max(1, there - _BLOCK_PX))
        return image, used

    def _draft(self, size: tuple[int, int]) -> None:
        (width, height), n = self.size, 8
        while n > 1 and (min(width // size[0], height // size[1]) < 2 * n and width * height <= n * n * MAX_WHOLE_PX // 4):
            n //= 2
        self._image.draft("RGB", (max(1, width // n), max(1, height // n)))


def _rows_there(image: PIL_Image) -> int | None:
    """Say down to which row there is anything beside the grey that libjpeg fills in where data end; None: there is no grey."""
    from PIL import Image, ImageChops

    last = image.getpixel((image.width - 1, image.height - 1))
    if any(abs(band - _GREY) > 1 for band in (last if isinstance(last, tuple) else (last,))):  # type: ignore[operator]
        return None
    box = ImageChops.difference(image, Image.new(image.mode, image.size, last)).getbbox()
    return box[3] if box else 0


def _go_on(image: PIL_Image, top: int) -> None:
    """Show more of the row above ``top`` where libjpeg filled in grey below it, and in the block before, which may be cut."""
    from PIL import Image, ImageChops

    size = (image.width, image.height - top)
    grey = Image.new(image.mode, size, image.getpixel((image.width - 1, image.height - 1)))
    off = ImageChops.difference(image.crop((0, top, image.width, image.height)), grey).convert("L")
    is_grey = off.point([255] + 255 * [0])
    more = image.crop((0, top - 1, image.width, top)).resize(size)
    image.paste(more, (0, top), ImageChops.lighter(is_grey, ImageChops.offset(is_grey, -_BLOCK_PX, 0)))
