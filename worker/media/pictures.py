"""Pictures: Pillow on a stranger's bytes, fresh RGB pixels out, as a viewer shows them.

Runs in the children of the decode pool, in the sandbox of worker/media/sandbox.py. Imports neither torch nor the rest of the
worker, so that a child starts fast, stays small, and can be killed at any time.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import warnings
import zlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, SupportsIndex

from shared.errors import MediaTooLarge, MediaUnreadable
from shared.media_types import HEAD_BYTES, check_kind
from worker.media.picture_formats import open_picture
from worker.media.picture_headers import MAX_PROFILE_BYTES
from worker.media.picture_reader import PictureReader

if TYPE_CHECKING:
    from PIL.Image import Image as PIL_Image

MAX_ASPECT = 200  #: qwen-vl-utils 0.0.14 refuses more
MAX_SIDE_PX = 50_000  #: screenshots of whole pages are 30,000 px high
#: EXIF's orientations: how far a picture is to be turned clockwise, after it was mirrored left to right or not.
TURNS = {
    1: (0, False),
    2: (0, True),
    3: (180, False),
    4: (180, True),
    5: (270, True),
    6: (90, False),
    7: (90, True),
    8: (270, False),
}
#: What Pillow and its libraries throw at damaged files.
DAMAGED = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, RuntimeError, LookupError, ArithmeticError),
    *(struct.error, zlib.error),
)
HAS_RESIZER = find_spec("cykooz_resizer") is not None  #: built for x86-64 only, as far as Linux goes
_OUT_OF_BAND = 5  #: from this protocol on pickle can leave buffers to whoever sends it


@dataclass(frozen=True)
class Source:
    """A picture as it is stored in its file, and how it is brought upright: mirrored first, where it is, then turned clockwise.

    ``lacks_end`` says that the file ends too early.
    """

    width_px: int
    height_px: int
    turned_deg: int = 0
    mirrored: bool = False
    lacks_end: bool = False


@dataclass(frozen=True)
class Pixels:
    """One decoded picture: ``rgb`` holds height x width x 3 bytes; ``source`` is what was sent, None of one made here."""

    width_px: int
    height_px: int
    rgb: bytes | bytearray
    source: Source | None = None

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[type[Pixels], tuple[int, int, Any, Source | None]]:
        """Keep the pixels out of a pickle where that can be: a copy of a megapixel takes longer than all the rest."""
        rgb = pickle.PickleBuffer(self.rgb) if int(protocol) >= _OUT_OF_BAND else self.rgb
        return Pixels, (self.width_px, self.height_px, rgb, self.source)

    def as_image(self) -> PIL_Image:
        """Give it to those who want Pillow's form, which takes a copy."""
        from PIL import Image

        return Image.frombuffer("RGB", (self.width_px, self.height_px), self.rgb)


@dataclass(frozen=True)
class Bounds:
    """How a picture or frame is scaled, in pixels, and how large the original may be."""

    factor_px: int
    min_px: int
    max_px: int
    max_source_px: int
    exact: tuple[int, int] | None = None  #: height and width asked for, in the place of both limits


def fit(height_px: int, width_px: int, bounds: Bounds) -> tuple[int, int]:
    """Scale a size into the limits, on the grid of the vision encoder.

    Args:
        height_px: height after EXIF rotation.
        width_px: width.
        bounds: both sides come out as multiples of ``factor_px``, their product between ``min_px`` and ``max_px``.

    Returns:
        ``(height_px, width_px)``, the aspect ratio kept as closely as the grid allows.

    Raises:
        MediaUnreadable: an aspect ratio above 200.

    Source:
        The rule of qwen_vl_utils 0.0.14 ``vision_process.smart_resize``; a test compares the two.
    """
    factor_px = bounds.factor_px
    if bounds.exact:  # also of qwen_vl_utils; beyond the limits it is kept in shape
        height_px, width_px = bounds.exact
    if max(height_px, width_px) > MAX_ASPECT * min(height_px, width_px):
        msg = f"a picture of {width_px} x {height_px} px is too narrow; at most {MAX_ASPECT} : 1 is taken"
        raise MediaUnreadable(msg)
    height = max(factor_px, round(height_px / factor_px) * factor_px)
    width = max(factor_px, round(width_px / factor_px) * factor_px)
    if height * width > bounds.max_px:
        scale = math.sqrt(height_px * width_px / bounds.max_px)
        height = max(factor_px, math.floor(height_px / scale / factor_px) * factor_px)
        width = max(factor_px, math.floor(width_px / scale / factor_px) * factor_px)
    elif height * width < bounds.min_px:
        scale = math.sqrt(bounds.min_px / (height_px * width_px))
        height = math.ceil(height_px * scale / factor_px) * factor_px
        width = math.ceil(width_px * scale / factor_px) * factor_px
    return height, width


def decode_image(data: bytes, bounds: Bounds) -> Pixels:
    """Decode a picture as a viewer shows it: first frame, upright, in sRGB, transparency on white.

    Raises:
        UnsupportedMedia: not a picture that is taken.
        MediaTooLarge: more pixels than allowed, as the header says, or more memory than a child has.
        MediaUnreadable: damaged.
    """
    from PIL import Image, PngImagePlugin

    media_type = check_kind(bytes(data[:HEAD_BYTES]), "image")
    Image.MAX_IMAGE_PIXELS = bounds.max_source_px  # Pillow's own limit stands at half of what phones make
    PngImagePlugin.MAX_TEXT_CHUNK = MAX_PROFILE_BYTES  # texts are left out; to Pillow a profile is one
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(open_picture(data, media_type), bounds)
    except Image.DecompressionBombError as error:  # raised by Pillow, for headers that are beyond all reason
        msg = "a picture is larger than this service takes"
        raise MediaTooLarge(msg) from error
    except MemoryError as error:
        msg = "a picture takes more memory to decode than this service gives it; send it smaller, or as a JPEG"
        raise MediaTooLarge(msg) from error
    except DAMAGED as error:
        # libwebp and libjpeg call it damaged when they get no memory: an AVIF takes 9 bytes for each pixel.
        msg = "a picture is damaged, or takes too much memory to decode; where it is not, send it smaller or as a JPEG"
        raise MediaUnreadable(msg) from error


def _decode(picture: PictureReader, bounds: Bounds) -> Pixels:
    width, height = picture.size
    if width * height > bounds.max_source_px or max(picture.size) > MAX_SIDE_PX:
        msg = (
            f"a picture of {width} x {height} px is larger than this service takes: {bounds.max_source_px} pixels "
            f"(SIGHTLINE_MAX_IMAGE_PIXELS) and {MAX_SIDE_PX} to a side"
        )
        raise MediaTooLarge(msg)
    turned_deg, mirrored = TURNS.get(picture.orientation, (0, False))
    lies = turned_deg % 180 == 90  # noqa: PLR2004
    shown_height, shown_width = fit(width, height, bounds) if lies else fit(height, width, bounds)
    stored_size = (shown_height, shown_width) if lies else (shown_width, shown_height)
    image, used = picture.shrunk(stored_size)
    small = on_white(to_srgb(resized(image, stored_size, used), picture.profile))
    upright = _upright(small, turned_deg, mirrored=mirrored)
    return Pixels(shown_width, shown_height, upright.tobytes(), Source(width, height, turned_deg, mirrored, picture.lacks_end))


def resized(image: PIL_Image, size: tuple[int, int], used: tuple[float, float]) -> PIL_Image:
    """Scale what a picture shows in its upper left, so wide and high as said, by Pillow's bicubic filter.

    RGB goes through wide registers where that library is: 1024 x 768 to 1036 x 756 takes 3 ms instead of 19. It takes columns
    first, Pillow the rows: smooth pictures differ by 3 of 255 at most.
    """
    from PIL import Image

    if image.mode != "RGB" or image.size == size or not HAS_RESIZER:
        return image.resize(size, Image.Resampling.BICUBIC, box=(0, 0, *used))
    from cykooz_resizer import CropBox, FilterType, ResizeAlg, ResizeOptions, Resizer

    scaled = Image.new("RGB", size)
    options = ResizeOptions(ResizeAlg.convolution(FilterType.catmull_rom), crop_box=CropBox(0, 0, *used))
    Resizer().resize_pil(image, scaled, options)
    return scaled


def to_srgb(image: PIL_Image, profile: bytes | None) -> PIL_Image:
    """Bring a picture's colours from its own profile, where it has a sound one, to sRGB."""
    from PIL import ImageCms

    if not profile:
        return image
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(image, embedded, _srgb(), outputMode=mode) or image
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # of another kind of picture, or none: viewers ignore it
        return image


@lru_cache(maxsize=1)
def _srgb() -> Any:
    from PIL import ImageCms

    return ImageCms.createProfile("sRGB")


def on_white(image: PIL_Image) -> PIL_Image:
    """Make a picture RGB; what is transparent in it shows white paper."""
    from PIL import Image

    if "A" not in image.getbands():
        return image if image.mode == "RGB" else image.convert("RGB")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _upright(image: PIL_Image, turned_deg: int, *, mirrored: bool) -> PIL_Image:
    from PIL.Image import Transpose

    if mirrored:
        image = image.transpose(Transpose.FLIP_LEFT_RIGHT)
    turns = {90: Transpose.ROTATE_270, 180: Transpose.ROTATE_180, 270: Transpose.ROTATE_90}  # Pillow's go the other way
    return image.transpose(turns[turned_deg]) if turned_deg else image
