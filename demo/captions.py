"""The demo's two languages: words, captions, and captions read back into truth.

A caption is compact and regular, so that a model of a few million weights can learn it, and so that an evaluation can
compare attributes instead of strings:

    A large red circle at the top left, and a small blue star in the centre.
    左上方有一个红色的大圆形，中间有一个蓝色的小星形。
    A red circle moves to the right.
    一个红色的圆形向右移动。
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Language = Literal["en", "zh"]

KINDS = {"circle": "圆形", "square": "方形", "triangle": "三角形", "star": "星形", "cross": "十字形", "ring": "圆环"}
COLOURS = {
    "red": "红色",
    "orange": "橙色",
    "yellow": "黄色",
    "green": "绿色",
    "blue": "蓝色",
    "purple": "紫色",
    "black": "黑色",
}
SIZES = {"large": "大", "small": "小"}
#: The 3 x 3 grid in reading order, which is also the order of shapes in a caption.
PLACES = {
    "at the top left": "左上方",
    "at the top": "上方",
    "at the top right": "右上方",
    "on the left": "左边",
    "in the centre": "中间",
    "on the right": "右边",
    "at the bottom left": "左下方",
    "at the bottom": "下方",
    "at the bottom right": "右下方",
}
DIRECTIONS = {"to the left": "向左", "to the right": "向右", "up": "向上", "down": "向下"}
#: The answer to a question about nothing.
NO_PICTURE: dict[Language, str] = {"en": "There is no picture.", "zh": "没有图片。"}


@dataclass(frozen=True, slots=True)
class Shape:
    """One shape of a picture; two shapes are equal when their words are, wherever exactly they were drawn."""

    kind: str
    colour: str
    size: str
    place: str
    centre_px: tuple[float, float] = field(default=(0.0, 0.0), compare=False)  # (x, y) from the top left
    radius_px: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Motion:
    """What happens in a clip."""

    kind: str
    colour: str
    direction: str


Truth = tuple[Shape, ...] | Motion


def _any(words: dict[str, str], language: Language) -> str:
    choices = words if language == "en" else words.values()
    return "(" + "|".join(sorted(map(re.escape, choices), key=len, reverse=True)) + ")"


_SHAPE = {
    "en": re.compile(rf"an? {_any(SIZES, 'en')} {_any(COLOURS, 'en')} {_any(KINDS, 'en')} {_any(PLACES, 'en')}", re.IGNORECASE),
    "zh": re.compile(rf"{_any(PLACES, 'zh')}有一个{_any(COLOURS, 'zh')}的{_any(SIZES, 'zh')}{_any(KINDS, 'zh')}"),
}
_MOTION = {
    "en": re.compile(rf"an? {_any(COLOURS, 'en')} {_any(KINDS, 'en')} moves {_any(DIRECTIONS, 'en')}\.", re.IGNORECASE),
    "zh": re.compile(rf"一个{_any(COLOURS, 'zh')}的{_any(KINDS, 'zh')}{_any(DIRECTIONS, 'zh')}移动。"),
}


def caption_shapes(shapes: Sequence[Shape], language: Language) -> str:
    """Say what a picture shows.

    Args:
        shapes: at least one, in the order in which they are to be named.
        language: "en" or "zh".

    Returns:
        One sentence.
    """
    if language == "zh":
        parts = [f"{PLACES[s.place]}有一个{COLOURS[s.colour]}的{SIZES[s.size]}{KINDS[s.kind]}" for s in shapes]
        return "，".join(parts) + "。"
    parts = [f"a {s.size} {s.colour} {s.kind} {s.place}" for s in shapes]
    if len(parts) > 1:
        parts[-1] = "and " + parts[-1]
    sentence = ", ".join(parts)
    return sentence[0].upper() + sentence[1:] + "."


def caption_motion(motion: Motion, language: Language) -> str:
    """Say what a clip shows, in one sentence."""
    if language == "zh":
        return f"一个{COLOURS[motion.colour]}的{KINDS[motion.kind]}{DIRECTIONS[motion.direction]}移动。"
    article = "An" if motion.colour[0] in "aeiou" else "A"
    return f"{article} {motion.colour} {motion.kind} moves {motion.direction}."


def read_caption(text: str, language: Language) -> Truth | None:
    """Read a caption back.

    Args:
        text: what a model said.
        language: the language that it should have said it in.

    Returns:
        The shapes in the order in which they are named, the motion, or None where the text is no caption of that
        language: every word must be accounted for, so a right caption with a tail of nonsense is None.
    """
    text = text.strip()
    if match := _MOTION[language].fullmatch(text):
        colour, kind, direction = _english(match.groups(), (COLOURS, KINDS, DIRECTIONS), language)
        return Motion(kind, colour, direction)
    shapes = tuple(_shape(match.groups(), language) for match in _SHAPE[language].finditer(text))
    if shapes and caption_shapes(shapes, language) == text:
        return shapes
    return None


def _shape(words: Sequence[str], language: Language) -> Shape:
    if language == "en":
        size, colour, kind, place = (word.lower() for word in words)
    else:
        place, colour, size, kind = _english(words, (PLACES, COLOURS, SIZES, KINDS), language)
    return Shape(kind, colour, size, place)


def _english(words: Sequence[str], tables: Sequence[dict[str, str]], language: Language) -> list[str]:
    if language == "en":
        return [word.lower() for word in words]
    return [next(en for en, zh in table.items() if zh == word) for word, table in zip(words, tables, strict=True)]
