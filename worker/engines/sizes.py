"""What decoded media weigh: tokens in the engine, bytes in memory. Pure."""

from __future__ import annotations

from worker.engines.base import Conversation, PixelLimits


def vision_tokens(conversation: Conversation, limits: PixelLimits) -> int:
    """Count the vision tokens of decoded media, by their sizes."""
    return sum(medium_tokens(*size, limits) for size in _sizes(conversation))


def medium_tokens(n_frames: int, height_px: int, width_px: int, limits: PixelLimits) -> int:
    """Count the vision tokens of one picture, or of a clip whose frames are of this size."""
    return -(-n_frames // limits.temporal_patch) * (height_px // limits.factor_px) * (width_px // limits.factor_px)


def pixel_bytes(conversation: Conversation) -> int:
    """Count the bytes of decoded media."""
    return sum(3 * n_frames * height_px * width_px for n_frames, height_px, width_px in _sizes(conversation))


def _sizes(conversation: Conversation) -> list[tuple[int, int, int]]:
    """Give frames, height and width of each medium; a picture has one frame."""
    parts = [part for message in conversation for part in message["content"] if part["type"] != "text"]
    media = [part["video"].frames if part["type"] == "video" else (part["image"],) for part in parts]
    return [(len(frames), frames[0].height_px, frames[0].width_px) for frames in media]
