"""What the model was shown, and what it pointed at: parts of a job's output. Pure."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

#: ``frames_thinned``: more frames were asked for, and are there, than one job takes. ``end_missing``: a file ends too early;
#: what there is of it was shown.
Notice = Literal["frames_thinned", "end_missing"]


class Medium(BaseModel):
    """One picture or video as the model was shown it, in the order of the request.

    ``source_px`` is its width and height as they are stored; to stand upright it was mirrored left to right where it says so,
    then turned clockwise by ``turned_deg``, then scaled to ``shown_px``. Of a video also how many frames were shown, when each
    of them is shown in it, and how many that are for each second.
    """

    kind: Literal["image", "video"]
    source_px: tuple[int, int]
    turned_deg: int = 0
    mirrored: bool = False
    shown_px: tuple[int, int]
    vision_tokens: int
    frames: int | None = None
    times_s: list[float] | None = None
    fps: float | None = None


class Box(BaseModel):
    """Something that the model pointed at: ``[x1, y1, x2, y2]`` or ``[x, y]`` in the source's pixels, from its upper left."""

    label: str | None = None
    box: tuple[int, int, int, int] | None = None
    point: tuple[int, int] | None = None
