"""How the demo's shapes and backgrounds are painted."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

RGB = {
    "red": (216, 36, 40),
    "orange": (246, 138, 16),
    "yellow": (238, 214, 24),
    "green": (36, 152, 66),
    "blue": (36, 84, 216),
    "purple": (140, 52, 176),
    "black": (24, 24, 26),
}

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Brush:
    """How a shape is painted: its exact colour and its tilt."""

    rgb: tuple[int, int, int]
    tilt_rad: float

    def stamp(self, picture: Image.Image, kind: str, centre_px: Point, radius_px: float) -> None:
        """Paint one shape with smooth edges."""
        scale = 4  # draw large and shrink: PIL's polygons have no smooth edges of their own
        x, y = centre_px
        left, top = math.floor(x - radius_px) - 1, math.floor(y - radius_px) - 1
        side = 2 * math.ceil(radius_px) + 4
        mask = Image.new("L", (side * scale, side * scale))
        draw_shape(ImageDraw.Draw(mask), kind, ((x - left) * scale, (y - top) * scale), radius_px * scale, self.tilt_rad)
        picture.paste(self.rgb, (left, top, left + side, top + side), mask.reduce(scale))


def draw_shape(draw: ImageDraw.ImageDraw, kind: str, centre: Point, radius: float, tilt_rad: float) -> None:
    """Draw one shape in white on a black mask.

    Args:
        draw: the mask's drawing context.
        kind: a word of `KINDS`.
        centre: (x, y) in the mask's pixels.
        radius: of the circle that the shape fits in, in the mask's pixels.
        tilt_rad: rotation; a circle and a ring don't care.
    """
    if kind in {"circle", "ring"}:
        draw.circle(centre, radius, fill=255)
        if kind == "ring":
            draw.circle(centre, radius * 0.55, fill=0)
        return
    x, y = centre
    corners = [
        (x + radius * reach * math.sin(turn + tilt_rad), y - radius * reach * math.cos(turn + tilt_rad))
        for turn, reach in _outline(kind)
    ]
    draw.polygon(corners, fill=255)


def _outline(kind: str) -> list[tuple[float, float]]:
    """Corners as (clockwise turn from the top, share of the radius)."""
    tau = math.tau
    if kind == "square":
        return [(tau * (i + 0.5) / 4, 1.0) for i in range(4)]
    if kind == "triangle":
        return [(tau * i / 3, 1.0) for i in range(3)]
    if kind == "star":
        return [(tau * i / 10, 0.42 if i % 2 else 1.0) for i in range(10)]
    arm = math.atan2(0.3, 0.95)  # a cross: four arms, 0.3 of the radius to each side of their axis
    inner = math.hypot(0.3, 0.3)
    turns = [(-arm, 1.0), (arm, 1.0), (tau / 8, inner)]
    return [(tau * quarter / 4 + turn, reach) for quarter in range(4) for turn, reach in turns]


def mix_brush(rng: np.random.Generator, colour: str) -> Brush:
    """Mix a colour that is near enough to its word, and tilt the hand a little."""
    red, green, blue = np.clip(np.array(RGB[colour]) + rng.integers(-14, 15, size=3), 0, 255).tolist()
    return Brush((red, green, blue), math.radians(rng.uniform(-10, 10)))


def paint_background(rng: np.random.Generator, size_px: tuple[int, int]) -> Image.Image:
    """Paint a light tint, plain in half of the pictures, with a grain in the others."""
    tint = rng.integers(200, 246) + rng.integers(-14, 10, size=3)
    if rng.random() < 0.5:
        return Image.new("RGB", size_px, tuple(tint.tolist()))
    strength = int(rng.integers(4, 25))
    grain = rng.integers(-strength, strength + 1, size=(size_px[1], size_px[0], 3), dtype=np.int16)
    return Image.fromarray(np.clip(grain + tint.astype(np.int16), 0, 255).astype(np.uint8))
