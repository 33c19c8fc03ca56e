"""Files of pictures: each kind is opened so that no more of it is decoded, or held at a time, than its picture needs.

Runs in the decoders' sandbox, see worker/media/sandbox.py.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from shared.errors import MediaTooLarge, MediaUnreadable, UnsupportedMedia
from worker.media.modes import scalable

if TYPE_CHECKING:
    from PIL.Image import Image as PIL_Image

#: Pixels of which the whole picture is held in memory, four bytes each; a phone's 8192 x 6144 are the most that is usual.
MAX_WHOLE_PX = 52_000_000
#: Pixels of a large picture that are worked on at a time.
_BAND_PX = 2_000_000
#: OpenJPEG takes some 30 bytes for each pixel: from here on a JPEG 2000 is decoded no larger than twice what is wanted.
_LARGE_JP2_PX = 4_000_000
#: Of a JPEG without its end so much may be missing; of a half nobody can say what it shows.
_MAX_MISSING = 0.25
_BLOCK_PX, _GREY = 16, 128
ORIENTATION, _DNG_VERSION, _SUBFILE_TYPE = 0x0112, 50706, 254  #: tags of EXIF and TIFF


class Still:
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


class PillowStill(Still):
    """One that Pillow decodes as a whole."""

    def __init__(self, data: bytes | memoryview, image_format: str) -> None:
        """Read the header."""
        from PIL import Image

        self._image: Any = Image.open(io.BytesIO(data), formats=[image_format])
        self.size = self._image.size
        self.profile = self._image.info.get("icc_profile")

    @property
    def orientation(self) -> int:
        """See :class:`Still`; of a PNG it may stand behind the picture, which is decoded then."""
        return int(self._image.getexif().get(ORIENTATION, 1))

    def shrunk(self, size: tuple[int, int]) -> tuple[PIL_Image, tuple[float, float]]:
        """See :class:`Still`; averaged down band by band, since nothing of its size shall be made twice."""
        image = self._image
        self.check_whole(image.width * image.height)
        image.seek(0)
        image.load()
        by = reduction(image.size, size)
        if by == 1:
            return scalable(image), image.size
        rows = max(1, _BAND_PX // image.width // by) * by
        bands = (image.crop((0, top, image.width, min(top + rows, image.height))) for top in range(0, image.height, rows))
        return _reduced(bands, image.size, by)


class JpegStill(PillowStill):
    """A JPEG, or one with more pictures behind it: scaled by two, four or eight while it is decoded."""

    def __init__(self, data: bytes | memoryview) -> None:
        """Read the header."""
        self._data = data
        super().__init__(data, "JPEG")

    def shrunk(self, size: tuple[int, int]) -> tuple[PIL_Image, tuple[float, float]]:
        """See :class:`Still`."""
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


class Jpeg2000Still(PillowStill):
    """A JPEG 2000: only so many of its levels are decoded as are wanted."""

    def __init__(self, data: bytes | memoryview) -> None:
        """Read the header."""
        super().__init__(data, "JPEG2000")
        style = re.search(rb"\xff\x52..[\x00-\x07].{4}(.)", bytes(data[:4096]), re.DOTALL)
        self._levels = style[1][0] if style else 0

    def shrunk(self, size: tuple[int, int]) -> tuple[PIL_Image, tuple[float, float]]:
        """See :class:`Still`."""
        over = 1 if self.size[0] * self.size[1] > _LARGE_JP2_PX else 2
        by = min(self.size[0] // size[0], self.size[1] // size[1]) // over
        levels = range(min(self._levels, max(0, by.bit_length() - 1)), -1, -1)
        self._image.reduce = next(n for n in levels if all(_agree_on(side, 1 << n) for side in self.size))
        self._image.load()  # only then it has its size
        return super().shrunk(size)


def _agree_on(side_px: int, by: int) -> bool:
    """Say whether Pillow 13, which rounds to the nearest, expects a side as long as OpenJPEG makes it, which rounds up."""
    return (side_px + by // 2) // by == -(-side_px // by)


class TiffStill(PillowStill):
    """The first page of a TIFF, which Pillow turns."""

    @property
    def orientation(self) -> int:
        """See :class:`Still`."""
        return 1

    def __init__(self, data: bytes | memoryview) -> None:
        """Read the header.

        Raises:
            UnsupportedMedia: a camera's raw file, whose first picture is a thumbnail.
        """
        super().__init__(data, "TIFF")
        if _DNG_VERSION in self._image.tag_v2 or self._image.tag_v2.get(_SUBFILE_TYPE, 0) & 1:
            msg = "a camera's raw file is not taken; send it as a JPEG"
            raise UnsupportedMedia(msg)


class HeicStill(Still):
    """A HEIC, as phones save them; libheif turns it."""

    def __init__(self, data: bytes | memoryview) -> None:
        """Read the header."""
        from pi_heif import HeifFile, options

        options.DECODE_THREADS = 1  # each other one has 8 MB of stack
        file = HeifFile(bytes(data), remove_stride=False)
        self._picture = file[file.primary_index]
        self.size = self._picture.size
        self.profile = self._picture.info.get("icc_profile")

    def shrunk(self, size: tuple[int, int]) -> tuple[PIL_Image, tuple[float, float]]:
        """See :class:`Still`: band by band, as libheif has it in memory already."""
        from PIL import Image

        self.check_whole(self.size[0] * self.size[1])
        picture, (width, height) = self._picture, self.size
        data, mode, stride = picture.data, picture.mode, picture.stride
        by = reduction(self.size, size)
        rows = max(1, _BAND_PX // width // by) * by
        bands = (
            Image.frombuffer(mode, (width, n_rows), data[top * stride : (top + n_rows) * stride], "raw", mode, stride, 1)
            for top in range(0, height, rows)
            for n_rows in [min(rows, height - top)]
        )
        return _reduced(bands, self.size, by)


def reduction(size: tuple[int, int], wanted: tuple[int, int]) -> int:
    """Say by what whole number a picture can be reduced and still be twice as large as wanted."""
    return max(1, min(size[0] // wanted[0], size[1] // wanted[1]) // 2)


def _reduced(bands: Iterator[PIL_Image], size: tuple[int, int], by: int) -> tuple[PIL_Image, tuple[float, float]]:
    from PIL import Image

    reduced, top = None, 0
    for band in bands:
        part = scalable(band).reduce(by)
        if reduced is None:
            reduced = Image.new(part.mode, (part.width, -(-size[1] // by)))
        reduced.paste(part, (0, top))
        top += part.height
    assert reduced is not None  # noqa: S101  # a picture has rows
    return reduced, (size[0] / by, size[1] / by)


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
