"""Boxes and points in a model's answer, brought from its own measure into the pixels of the picture that was sent. Pure."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from shared.media_report import Box, Medium

#: How a family of models measures: in pixels of the picture that it was shown, or in thousandths of it.
Measure = Literal["pixels", "thousandths"]
MOST_BOXES = 1000  #: more are a model that repeats itself, and each is kept in Redis
MOST_ODD = 2000  #: braces that begin nothing; each can take 60 us in a long answer, and all other jobs of the worker wait

_BOX_NAMES, _POINT_NAMES = ("bbox_2d", "bbox"), ("point_2d", "point")
_LABEL_NAMES = ("label", "text_content", "text", "name")
_INNERMOST = re.compile(r"\{[^{}]*\}")
_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
#: Qwen2-VL writes no JSON: <|object_ref_start|>a cat<|object_ref_end|><|box_start|>(10,20),(300,400)<|box_end|>, of which the
#: marks may be gone.
_MARKS = re.compile(r"<\|(?:object_ref|box|quad)_(?:start|end)\|>")
_PAIRS = re.compile(rf"\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)")
_LABEL_ENDS = re.compile(r"[\n(),<>]")
_XML_POINT = re.compile(rf'<points?\s+x1?="{_NUMBER}"\s+y1?="{_NUMBER}"[^>]*>([^<]*)')


def boxes_in(text: str, media: Sequence[Medium], measure: Measure) -> list[Box]:
    """Find what an answer points at.

    Args:
        text: the answer, cut short or not.
        media: what the model was shown; where those are several of different shapes nobody can say which one is meant.
        measure: how the model measures.

    Returns:
        Boxes and points in order; what lies beyond the picture is moved to its edge, what is no box is left out.
    """
    if not media or media[0].kind != "image" or len({_shape(medium) for medium in media}) > 1:
        return []
    found = (_mapped(label, numbers, media[0], measure) for label, numbers in _written(text))
    return [box for box, _ in zip((box for box in found if box), range(MOST_BOXES), strict=False)]


def _shape(medium: Medium) -> tuple[object, ...]:
    return medium.kind, medium.source_px, medium.turned_deg, medium.mirrored, medium.shown_px


def _written(text: str) -> Iterator[tuple[str | None, list[float]]]:
    """Give label and numbers of each box or point as the model wrote them."""
    if "{" in text:
        for thing in _things(text):
            label = next((thing[name] for name in _LABEL_NAMES if isinstance(thing.get(name), str)), None)
            for numbers in (*_numbers(thing, _BOX_NAMES, 4), *_numbers(thing, _POINT_NAMES, 2)):
                yield label, numbers
    for x, y, label in _XML_POINT.findall(text):
        yield label.strip() or None, [float(x), float(y)]
    plain, at = _MARKS.sub("", text), 0
    for pair in _PAIRS.finditer(plain):  # the label is looked for from here: a pattern with it takes seconds for a long line
        label, at = _LABEL_ENDS.split(plain[at : pair.start()])[-1], pair.end()
        yield label.strip(" :-*,") or None, [float(corner) for corner in pair.groups()]


def _things(text: str) -> Iterator[dict[str, Any]]:
    """Give the objects in an answer: JSON anywhere in it, also of a list that was cut short, or as Python writes them."""
    decoder, at, n_odd = json.JSONDecoder(), 0, 0
    while n_odd < MOST_ODD and (at := text.find("{", at)) >= 0:
        try:
            thing, at = decoder.raw_decode(text, at)
        except RecursionError:
            return  # a thousand levels, and as many at each of the next braces
        except ValueError:
            flat = _INNERMOST.match(text, at)
            thing, at = _python(flat[0]) if flat else None, at + 1
            n_odd += thing is None
        yield from _objects_in(thing)


def _python(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _objects_in(thing: Any) -> Iterator[dict[str, Any]]:
    inside = [thing]
    while inside:
        thing = inside.pop(0)
        if isinstance(thing, dict):
            yield thing
            inside[:0] = thing.values()
        elif isinstance(thing, list):
            inside[:0] = [one for one in thing if isinstance(one, dict | list)]


def _numbers(thing: dict[str, Any], names: Sequence[str], count: int) -> Iterator[list[float]]:
    """Give the numbers under one of some names; there may be lists of them."""
    for value in (thing[name] for name in names if isinstance(thing.get(name), list)):
        for numbers in value if value and isinstance(value[0], list) else [value]:
            if isinstance(numbers, list) and len(numbers) == count and all(_is_number(number) for number in numbers):
                yield [float(number) for number in numbers]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 10**6 and math.isfinite(value)


def _mapped(label: str | None, numbers: list[float], medium: Medium, measure: Measure) -> Box | None:
    wide, high = medium.shown_px if measure == "pixels" else (1000, 1000)
    corners = [_in_source(x / wide, y / high, medium) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
    if len(corners) == 1:
        return Box(label=label, point=corners[0])
    (x1, y1), (x2, y2) = corners
    left, top, right, bottom = min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)
    return Box(label=label, box=(left, top, right, bottom)) if left < right and top < bottom else None


def _in_source(x: float, y: float, medium: Medium) -> tuple[int, int]:
    """Take a place back from the upright picture to the stored one; shares of width and height in, pixels out."""
    x, y = min(1.0, max(0.0, x)), min(1.0, max(0.0, y))
    x, y = {0: (x, y), 90: (y, 1 - x), 180: (1 - x, 1 - y), 270: (1 - y, x)}[medium.turned_deg]
    x = 1 - x if medium.mirrored else x
    return round(x * medium.source_px[0]), round(y * medium.source_px[1])
