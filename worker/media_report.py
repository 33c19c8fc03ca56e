"""What the model was shown, by the pixels that it got. Pure."""

from __future__ import annotations

from typing import Any

from shared.media_report import Medium, Notice
from worker.engines.base import Conversation, PixelLimits
from worker.engines.sizes import medium_tokens
from worker.media.frame_sampling import Frames
from worker.media.pictures import Pixels, Source


def media_of(conversation: Conversation, limits: PixelLimits) -> list[Medium]:
    """Describe each picture and video, in order.

    Args:
        conversation: with decoded media in it.
        limits: of the model, which say how many tokens its pixels are.
    """
    return [_medium(part, limits) for part in _media(conversation)]


def warnings_of(conversation: Conversation) -> list[Notice]:
    """Say what the model was not shown, though it was sent or asked for."""
    found = list[Notice]()
    if any(isinstance(medium, Frames) and medium.is_thinned for medium in _media(conversation)):
        found.append("frames_thinned")
    if any(isinstance(medium, Pixels) and _source(medium).lacks_end for medium in _media(conversation)):
        found.append("end_missing")
    return found


def _media(conversation: Conversation) -> list[Pixels | Frames]:
    parts: list[dict[str, Any]] = [part for message in conversation for part in message["content"]]
    return [part[part["type"]] for part in parts if part["type"] != "text"]


def _medium(shown: Pixels | Frames, limits: PixelLimits) -> Medium:
    first = shown.frames[0] if isinstance(shown, Frames) else shown
    source, frames = _source(first), len(shown.frames) if isinstance(shown, Frames) else 1
    facts: dict[str, Any] = {
        "source_px": (source.width_px, source.height_px),
        "turned_deg": source.turned_deg,
        "mirrored": source.mirrored,
        "shown_px": (first.width_px, first.height_px),
        "vision_tokens": medium_tokens(frames, first.height_px, first.width_px, limits),
    }
    if isinstance(shown, Pixels):
        return Medium(kind="image", **facts)
    return Medium(kind="video", frames=frames, times_s=list(shown.times_s), fps=round(shown.sample_fps, 3), **facts)


def _source(pixels: Pixels) -> Source:
    return pixels.source or Source(pixels.width_px, pixels.height_px)
