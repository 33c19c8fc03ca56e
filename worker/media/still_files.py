"""From a file to a picture that is opened the way its kind asks for.

Runs in the decoders' sandbox, see worker/media/sandbox.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shared.errors import MediaTooLarge
from worker.media.picture_files import png_in_icon, webp_chunks, webp_size, without_ballast
from worker.media.stills import ORIENTATION, HeicStill, Jpeg2000Still, JpegStill, PillowStill, Still, TiffStill, reduction

if TYPE_CHECKING:
    from PIL.Image import Image as PIL_Image

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


def open_still(data: bytes | memoryview, media_type: str) -> Still:
    """Open a picture.

    Args:
        data: the whole file.
        media_type: what :func:`shared.media_types.sniff` calls it.

    Raises:
        UnsupportedMedia: a camera's raw file.
        MediaTooLarge: it would have to be decoded whole.
    """
    if media_type == "image/jpeg":
        return JpegStill(data)
    if media_type == "image/jp2":
        return Jpeg2000Still(data)
    if media_type == "image/heic":
        return HeicStill(data)
    if media_type == "image/webp" and (size := webp_size(data)) and size[0] * size[1] > _LARGE_WEBP_PX:
        return LargeWebp(data, size)
    if media_type == "image/x-icon" and (inner := png_in_icon(data)):
        data, media_type = inner, "image/png"
    if media_type == "image/png":
        data = without_ballast(data)
    still = TiffStill(data) if media_type == "image/tiff" else PillowStill(data, _PILLOW[media_type])
    still.check_whole(still.size[0] * still.size[1])  # at once: a PNG's orientation may stand behind all its pixels
    return still


class LargeWebp(Still):
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
        """See :class:`Still`."""
        return int(self._exif.get(ORIENTATION, 1))

    def shrunk(self, size: tuple[int, int]) -> tuple[PIL_Image, tuple[float, float]]:
        """See :class:`Still`."""
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
