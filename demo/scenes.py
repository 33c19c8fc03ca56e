"""Pictures and short clips with known truth, made from a seed.

A scene holds one to three shapes on a light background, plain or noisy; a clip holds one shape that moves. Everything
about them is drawn from one seed, so a seed is a test case:

    >>> from demo.scenes import scene
    >>> scene(7).caption("en")
    'A small purple star in the centre.'

Sizes are fractions of a picture's side, chosen so that the kind of a small shape can still be seen when the picture is
scaled to the some 45 vision tokens that the demo model looks at.
"""

import io
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import av
import numpy as np
from PIL import Image

from demo.captions import (
    COLOURS,
    DIRECTIONS,
    KINDS,
    PLACES,
    Language,
    Motion,
    Shape,
    Truth,
    caption_motion,
    caption_shapes,
    read_caption,
)
from demo.drawing import Brush, Point, mix_brush, paint_background

__all__ = ["EVALUATION_SEEDS", "TRAINING_SEEDS", "Clip", "Motion", "Scene", "Shape", "Truth", "clip", "read_caption", "scene"]

#: Training never draws a seed below 2**48, evaluation never one above, so that no model has seen its exam.
EVALUATION_SEEDS = range(2**48)
TRAINING_SEEDS = range(2**48, 2**49)

#: Radii as a share of the square root of the area; the gap between the two ranges keeps the words apart.
RADII = {"small": (0.088, 0.108), "large": (0.152, 0.180)}
#: A centre stays this share of a cell away from the cell's borders, so that its place is beyond dispute.
CELL_MARGIN = 0.2
CLIP_RADII = (0.16, 0.21)
CLIP_FRAMES = 32
CLIP_FPS = 8


@dataclass(frozen=True)
class Scene:
    """A picture and what is on it, in reading order of the places."""

    seed: int
    picture: Image.Image
    shapes: tuple[Shape, ...]

    @property
    def truth(self) -> tuple[Shape, ...]:
        """What `read_caption` should find."""
        return self.shapes

    def caption(self, language: Language) -> str:
        """Say what the picture shows."""
        return caption_shapes(self.shapes, language)

    def png(self) -> bytes:
        """Encode without loss."""
        buffer = io.BytesIO()
        self.picture.save(buffer, "PNG", compress_level=3)
        return buffer.getvalue()

    def jpeg(self, quality: int = 90) -> bytes:
        """Encode as users mostly do."""
        buffer = io.BytesIO()
        self.picture.save(buffer, "JPEG", quality=quality)
        return buffer.getvalue()


@dataclass(frozen=True)
class Clip:
    """A shape that moves at an even pace over a background that stands still."""

    seed: int
    motion: Motion
    start_px: Point
    end_px: Point
    radius_px: float
    fps: int = CLIP_FPS
    length: int = CLIP_FRAMES
    _background: Image.Image = field(repr=False, default_factory=lambda: Image.new("RGB", (28, 28)))
    _brush: Brush = field(repr=False, default_factory=lambda: Brush((0, 0, 0), 0.0))

    @property
    def truth(self) -> Motion:
        """What `read_caption` should find."""
        return self.motion

    @property
    def kind(self) -> str:
        """The shape's kind, a word of `KINDS`."""
        return self.motion.kind

    @property
    def colour(self) -> str:
        """The shape's colour, a word of `COLOURS`."""
        return self.motion.colour

    @property
    def direction(self) -> str:
        """Where it goes, a word of `DIRECTIONS`."""
        return self.motion.direction

    def centre_px(self, index: int) -> Point:
        """Where the shape is in one frame, (x, y) from the top left."""
        share = index / (self.length - 1)
        (x0, y0), (x1, y1) = self.start_px, self.end_px
        return x0 + share * (x1 - x0), y0 + share * (y1 - y0)

    def frame(self, index: int) -> Image.Image:
        """Draw one frame, 0 to `length` - 1."""
        picture = self._background.copy()
        self._brush.stamp(picture, self.kind, self.centre_px(index), self.radius_px)
        return picture

    @cached_property
    def frames(self) -> list[Image.Image]:
        """All frames."""
        return [self.frame(index) for index in range(self.length)]

    def caption(self, language: Language) -> str:
        """Say what the clip shows."""
        return caption_motion(self.motion, language)

    def mp4(self) -> bytes:
        """Encode as H.264, or as MPEG-4 part 2 where this build of FFmpeg has no H.264 encoder."""
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="mp4") as container:
            stream = cast("av.VideoStream", container.add_stream(codec, rate=self.fps))
            stream.width, stream.height = self._background.size
            stream.pix_fmt = "yuv420p"
            stream.bit_rate = 2_000_000
            for picture in self.frames:
                frame = av.VideoFrame.from_image(picture)  # type: ignore[no-untyped-call]
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return buffer.getvalue()


def scene(seed: int) -> Scene:
    """Draw a picture.

    Args:
        seed: of EVALUATION_SEEDS or TRAINING_SEEDS.

    Returns:
        One to three shapes, each in a place of its own, none touching another.
    """
    rng = np.random.default_rng((1, seed))
    size_px = _size(rng, 200, 500, 1.6)
    picture = paint_background(rng, size_px)
    while not (shapes := _layout(rng, size_px)):
        pass
    for shape in shapes:
        mix_brush(rng, shape.colour).stamp(picture, shape.kind, shape.centre_px, shape.radius_px)
    return Scene(seed, picture, shapes)


def _layout(rng: np.random.Generator, size_px: tuple[int, int]) -> tuple[Shape, ...]:
    """Try to place shapes; empty where two of them came too close."""
    places = sorted(rng.choice(len(PLACES), size=rng.integers(1, 4), replace=False).tolist())
    shapes: list[Shape] = []
    for place in places:
        size = _pick(rng, tuple(RADII))
        radius = float(rng.uniform(*RADII[size])) * math.sqrt(size_px[0] * size_px[1])
        row, column = divmod(place, 3)
        centre = (_inside(rng, column, size_px[0], radius), _inside(rng, row, size_px[1], radius))
        if any(math.dist(centre, s.centre_px) < radius + s.radius_px + 8 for s in shapes):
            return ()
        words = _pick(rng, tuple(KINDS)), _pick(rng, tuple(COLOURS)), size, tuple(PLACES)[place]
        shapes.append(Shape(*words, centre, radius))
    return tuple(shapes)


def _inside(rng: np.random.Generator, cell: int, length_px: int, radius_px: float) -> float:
    """A coordinate well inside one third of a side, with the shape wholly in the picture."""
    low = max((cell + CELL_MARGIN) / 3 * length_px, radius_px + 2)
    high = min((cell + 1 - CELL_MARGIN) / 3 * length_px, length_px - radius_px - 2)
    return float(rng.uniform(low, max(low, high)))


def clip(seed: int) -> Clip:
    """Make a clip of 4 s; at two frames a second a model sees eight of them.

    Args:
        seed: of EVALUATION_SEEDS or TRAINING_SEEDS.

    Returns:
        One shape on its way across a good half of the picture.
    """
    rng = np.random.default_rng((2, seed))
    width, height = (length // 2 * 2 for length in _size(rng, 160, 320, 1.4))  # video codecs want even sides
    radius = float(rng.uniform(*CLIP_RADII)) * math.sqrt(width * height)
    direction = _pick(rng, tuple(DIRECTIONS))
    sideways = direction in {"to the left", "to the right"}
    along, across = (width, height) if sideways else (height, width)
    start, end = rng.uniform(radius + 2, 0.3 * along), rng.uniform(0.7 * along, along - radius - 2)
    if direction in {"to the left", "up"}:
        start, end = end, start
    lane = rng.uniform(radius + 2, across - radius - 2)
    path = [(float(at), float(lane)) if sideways else (float(lane), float(at)) for at in (start, end)]
    motion = Motion(_pick(rng, tuple(KINDS)), _pick(rng, tuple(COLOURS)), direction)
    background = paint_background(rng, (width, height))
    brush = mix_brush(rng, motion.colour)
    return Clip(seed, motion, path[0], path[1], radius, _background=background, _brush=brush)


def _pick(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[rng.integers(len(words))]


def _size(rng: np.random.Generator, low_px: int, high_px: int, max_aspect: float) -> tuple[int, int]:
    """(width, height), each side within the limits."""
    short = int(rng.integers(low_px, int(high_px / max_aspect) + 1))
    long = int(short * rng.uniform(1, max_aspect))
    if rng.random() < 0.25:
        long = short
    return (long, short) if rng.random() < 0.5 else (short, long)
