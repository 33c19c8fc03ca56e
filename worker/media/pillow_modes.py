"""Modes of Pillow's pictures: of each kind of number one that can be scaled.

Runs in the decoders' sandbox, see worker/media/sandbox.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from PIL.Image import Image as PIL_Image


def scalable(image: PIL_Image) -> PIL_Image:
    """Bring a picture into a mode that can be scaled: grey, RGB, CMYK, or one of the first two with alpha."""
    if image.mode.startswith("I;16"):  # scaled, since Pillow's own conversion would clip
        return image.point(lambda value: value / 256).convert("L")
    if image.mode in {"I", "F"}:
        return _stretched(image)
    if image.mode == "LAB":
        return _from_lab(image)
    transparent = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(transparent, tuple) and max(transparent) >= 1 << 8:  # it was of 16 bits
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    if transparent is not None or "A" in image.getbands():
        return image if image.mode in {"RGBA", "LA"} else image.convert("RGBA")
    return image if image.mode in {"RGB", "L", "CMYK"} else image.convert("RGB")


def _stretched(image: PIL_Image) -> PIL_Image:
    """Bring numbers of no fixed range, of scientists' TIFFs, to 0 to 255: by the range that they fit in, or that they have."""
    low, high = cast("tuple[float, float]", image.getextrema())
    top = next((top for top in (1, 255, 65_535) if low >= 0 and high <= top), None)
    start, span = (0, top) if top else (low, high - low)
    return image.convert("F").point(lambda value: value * (255 / span) - start * 255 / span).convert("L")


def _from_lab(image: PIL_Image) -> PIL_Image:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB") or image
