"""Which reader opens which format of pictures, and the readers of those that need their own. A new format goes here.

Runs in the decoders' sandbox, see worker/media/sandbox.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from shared.errors import MediaTooLarge, UnsupportedMedia
from worker.media.jpeg_reader import JpegReader
from worker.media.picture_headers import png_in_icon, webp_chunks, webp_size, without_ballast
from worker.media.picture_reader import BAND_PX, ORIENTATION, PictureReader, PillowReader, reduced, reduction

if TYPE_CHECKING:
    from PIL.Image import Image as PIL_Image

#: OpenJPEG takes some 30 bytes for each pixel: from here on a JPEG 2000 is decoded no larger than twice what is wanted.
_LARGE_JP2_PX = 4_000_000
#: From here on a WEBP goes through FFmpeg, which takes 1.5 bytes for each pixel instead of libwebp's 15.
_LARGE_WEBP_PX = 8_000_000
_PILLOW = {
    "image/png": "PNG",
    "image/gif": "GIF",
    "image/avif": "AVIF",
    "image/bmp": "BMP",
    "image/tiff": "TIFF",
    "image/webp": "WEBP",
    "image/x-icon": "ICO",
}
_DNG_VERSION, _SUBFILE_TYPE = 50706, 254  #: tags of TIFF


def open_picture(data: bytes | memoryview, media_type: str) -> PictureReader:
    """Open a picture.

    Args:
        data: the whole file.
        media_type: what :func:`shared.media_types.sniff` calls it.

    Raises:
        UnsupportedMedia: a camera's raw file.
        MediaTooLarge: it would have to be decoded whole.
    """
    if media_type == "image/jpeg":
        return JpegReader(data)
    if media_type == "image/jp2":
        return Jpeg2000Reader(data)
    if media_type == "image/heic":
        return HeicReader(data)
    if media_type == "image/webp" and (size := webp_size(data)) and size[0] * size[1] > _LARGE_WEBP_PX:
        return LargeWebpReader(data, size)
    if media_type == "image/x-icon" and (inner := png_in_icon(data)):
        data, media_type = inner, "image/png"
    if media_type == "image/png":
        data = without_ballast(data)
    picture = TiffReader(data) if media_type == "image/tiff" else PillowReader(data, _PILLOW[media_type])
    picture.check_whole(picture.size[0] * picture.size[1])  # at once: a PNG's orientation may stand behind all its pixels
    return picture


class Jpeg2000Reader(PillowReader):
    """A JPEG 2000: only so many of its levels are decoded as are wanted."""

    def __init__(self, data: bytes | memoryview) -> None:
        """Read the header."""
        super().__init__(data, "JPEG2000")
        style = re.search(rb"\xff\x52..[\x00-\x07].{4}(.)", bytes(data[:4096]), re.DOTALL)
        self._levels = style[1][0] if style else 0

    def shrunk(self, size: tuple[int, int]) -> tuple[PIL_Image, tuple[float, float]]:
        """See :class:`PictureReader`."""
        over = 1 if self.size[0] * self.size[1] > _LARGE_JP2_PX else 2
        by = min(self.size[0] // size[0], self.size[1] // size[1]) // over
        levels = range(min(self._levels, max(0, by.bit_length() - 1)), -1, -1)
        self._image.reduce = next(n for n in levels if all(_agree_on(side, 1 << n) for side in self.size))
        self._image.load()  # only then it has its size
        return super().shrunk(size)


def _agree_on(side_px: int, by: int) -> bool:
    """Say whether Pillow 13, which rounds to the nearest, expects a side as long as OpenJPEG makes it, which rounds up."""
    return (side_px + by // 2) // by == -(-side_px // by)


class TiffReader(PillowReader):
    """The first page of a TIFF, which Pillow turns."""

    @property
    def orientation(self) -> int:
        """See :class:`PictureReader`."""
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


class HeicReader(PictureReader):
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
        """See :class:`PictureReader`: band by band, as libheif has it in memory already."""
        from PIL import Image

        self.check_whole(self.size[0] * self.size[1])
        picture, (width, height) = self._picture, self.size
        data, mode, stride = picture.data, picture.mode, picture.stride
        by = reduction(self.size, size)
        rows = max(1, BAND_PX // width // by) * by
        bands = (
            Image.frombuffer(mode, (width, n_rows), data[top * stride : (top + n_rows) * stride], "raw", mode, stride, 1)
            for top in range(0, height, rows)
            for n_rows in [min(rows, height - top)]
        )
        return reduced(bands, self.size, by)


class LargeWebpReader(PictureReader):
    """A WEBP of many megapixels, for which FFmpeg takes a tenth of libwebp's memory."""

    def __init__(self, data: bytes | memoryview, size: tuple[int, int]) -> None:
        """Read the chunks' heads."""
        from PIL import Image

        self._data, self.size = data, size
        chunks = {name: body for name, body in webp_chunks(data) if name in {b"ICCP", b"EXIF", b"ANIM"}}
        self._is_animated = b"ANIM" in chunks
        self.profile = bytes(chunks[b"ICCP"]) if b"ICCP" in chunks else None
        self._exif = Image.Exif()
        self._exif.load(bytes(chunks.get(b"EXIF", b"")))

    @property
    def orientation(self) -> int:
        """See :class:`PictureReader`."""
        return int(self._exif.get(ORIENTATION, 1))

    def shrunk(self, size: tuple[int, int]) -> tuple[PIL_Image, tuple[float, float]]:
        """See :class:`PictureReader`."""
        import av

        self.check_whole(self.size[0] * self.size[1])
        if self._is_animated:
            msg = f"an animated WEBP of {self.size[0]} x {self.size[1]} px is larger than this service takes"
            raise MediaTooLarge(msg)
        decoder = av.CodecContext.create("webp", "r")
        try:
            (frame, *_) = [*decoder.decode(av.Packet(bytes(self._data))), *decoder.decode(None)]
        except av.FFmpegError as error:
            raise OSError(str(error)) from error
        if (frame.width, frame.height) != self.size:
            msg = "a WEBP's picture is not as large as its header says"
            raise OSError(msg)
        by = reduction(self.size, size)
        width, height = -(-frame.width // by), -(-frame.height // by)
        has_alpha = "a" in frame.format.name
        scaled = frame.reformat(width, height, format="rgba" if has_alpha else "rgb24", interpolation="AREA")
        image = _from_plane(scaled, "RGBA" if has_alpha else "RGB")
        return image, (width, height)


def _from_plane(frame: Any, mode: str) -> PIL_Image:
    from PIL import Image

    plane = frame.planes[0]
    return Image.frombuffer(mode, (frame.width, frame.height), bytes(plane), "raw", mode, plane.line_size, 1)
