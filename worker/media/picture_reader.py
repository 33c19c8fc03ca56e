"""What readers of all picture formats have in common: no more of a picture is decoded, or held at a time, than is needed.

Runs in the decoders' sandbox, see worker/media/sandbox.py.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from shared.errors import MediaTooLarge
from worker.media.pillow_modes import scalable

if TYPE_CHECKING:
    from PIL.Image import Image as PIL_Image

#: Pixels of which the whole picture is held in memory, four bytes each; a phone's 8192 x 6144 are the most that is usual.
MAX_WHOLE_PX = 52_000_000
#: Pixels of a large picture that are worked on at a time.
BAND_PX = 2_000_000
ORIENTATION = 0x0112  #: tag of EXIF


class PictureReader:
    """A picture of which only the header was read: its size as it is stored, its colours."""

    size: tuple[int, int]
    profile: bytes | None = None
    lacks_end = False  #: known when it is decoded

    @property
    def orientation(self) -> int:
        """Give EXIF's number for how the picture lies; 1 where it is upright, or its reader turns it."""
        return 1

    def shrunk(self, size: tuple[int, int]) -> tuple[PIL_Image, tuple[float, float]]:
        """Decode it, scaled down roughly.

        Args:
            size: width and height that are wanted in the end.

        Returns:
            A picture at least as large, twice as large where it can be, in a mode that can be scaled; and how much of its
            upper left the picture takes.

        Raises:
            MediaTooLarge: it is too large to be decoded whole, and there is no other way.
        """
        raise NotImplementedError

    def check_whole(self, n_px: int) -> None:
        """Refuse to have so many pixels in memory.

        Raises:
            MediaTooLarge: they are too many.
        """
        if n_px > MAX_WHOLE_PX:
            msg = (
                f"a picture of {self.size[0]} x {self.size[1]} px is too large for its kind, of which at most "
                f"{MAX_WHOLE_PX // 10**6} million pixels are taken; send it as a JPEG"
            )
            raise MediaTooLarge(msg)


class PillowReader(PictureReader):
    """One that Pillow decodes as a whole."""

    def __init__(self, data: bytes | memoryview, image_format: str) -> None:
        """Read the header."""
        from PIL import Image

        self._image: Any = Image.open(io.BytesIO(data), formats=[image_format])
        self.size = self._image.size
        self.profile = self._image.info.get("icc_profile")

    @property
    def orientation(self) -> int:
        """See :class:`PictureReader`; of a PNG it may stand behind the picture, which is decoded then."""
        return int(self._image.getexif().get(ORIENTATION, 1))

    def shrunk(self, size: tuple[int, int]) -> tuple[PIL_Image, tuple[float, float]]:
        """See :class:`PictureReader`; averaged down band by band, since nothing of its size shall be made twice."""
        image = self._image
        self.check_whole(image.width * image.height)
        image.seek(0)
        image.load()
        by = reduction(image.size, size)
        if by == 1:
            return scalable(image), image.size
        rows = max(1, BAND_PX // image.width // by) * by
        bands = (image.crop((0, top, image.width, min(top + rows, image.height))) for top in range(0, image.height, rows))
        return reduced(bands, image.size, by)


def reduction(size: tuple[int, int], wanted: tuple[int, int]) -> int:
    """Say by what whole number a picture can be reduced and still be twice as large as wanted."""
    return max(1, min(size[0] // wanted[0], size[1] // wanted[1]) // 2)


def reduced(bands: Iterator[PIL_Image], size: tuple[int, int], by: int) -> tuple[PIL_Image, tuple[float, float]]:
    """Average a picture down that comes in bands; gives what :meth:`PictureReader.shrunk` does."""
    from PIL import Image

    small, top = None, 0
    for band in bands:
        part = scalable(band).reduce(by)
        if small is None:
            small = Image.new(part.mode, (part.width, -(-size[1] // by)))
        small.paste(part, (0, top))
        top += part.height
    assert small is not None  # noqa: S101  # a picture has rows
    return small, (size[0] / by, size[1] / by)
