"""A conversation: turns of text, pictures and videos, in the one form that records and workers know. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from shared.fields import DAY_S, Strict

Pixels = Annotated[int, Field(ge=1, le=100_000_000)]
#: A reference to media: http(s) address, data-URL or upload id.
Reference = Annotated[str, StringConstraints(min_length=1)]


class TextPart(Strict):
    """Text in a message."""

    type: Literal["text"]
    text: str


MAX_FRAMES = 768  #: qwen-vl-utils 0.0.14, FPS_MAX_FRAMES
Side = Annotated[int, Field(ge=1, le=16_384)]


class _Sized(Strict):
    """How a picture or frame is scaled: between two numbers of pixels, or to one size, which is brought to the model's grid."""

    min_pixels: Pixels | None = None
    max_pixels: Pixels | None = None
    resized_height: Side | None = None
    resized_width: Side | None = None

    @model_validator(mode="after")
    def _both_sides(self) -> Self:
        if (self.resized_height is None) != (self.resized_width is None):
            msg = "give resized_height and resized_width, or neither"
            raise ValueError(msg)
        return self


class ImagePart(_Sized):
    """A picture in a message, in Qwen's form."""

    type: Literal["image"]
    image: Reference


class VideoPart(_Sized):
    """A video in a message, in Qwen's form, or a list of its frames; ``fps`` and ``nframes`` exclude each other.

    ``total_pixels`` bounds all frames together, two of them counted as one; ``video_start`` and ``video_end`` are seconds.
    """

    type: Literal["video"]
    video: Reference | Annotated[list[Reference], Field(min_length=1, max_length=MAX_FRAMES)]
    fps: Annotated[float, Field(gt=0, le=60)] | None = None
    nframes: Annotated[int, Field(ge=2, le=MAX_FRAMES)] | None = None
    min_frames: Annotated[int, Field(ge=1, le=MAX_FRAMES)] | None = None
    max_frames: Annotated[int, Field(ge=2, le=MAX_FRAMES)] | None = None
    total_pixels: Annotated[int, Field(ge=1, le=MAX_FRAMES * 100_000_000)] | None = None
    video_start: Annotated[float, Field(ge=0, le=DAY_S)] | None = None
    video_end: Annotated[float, Field(gt=0, le=DAY_S)] | None = None

    @field_validator("video", mode="before")
    @classmethod
    def _names_files(cls, value: object) -> object:
        if not value or not all(isinstance(one, str) and one for one in (value if isinstance(value, list) else [value])):
            msg = "a video is named by an address, a data-URL or an upload's id, or by a list of these, one for each frame"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.fps is not None and self.nframes is not None:
            msg = "give fps or nframes, not both"
            raise ValueError(msg)
        if self.video_start is not None and self.video_end is not None and self.video_start >= self.video_end:
            msg = "video_start must be before video_end"
            raise ValueError(msg)
        return self


class FilePart(Strict):
    """A file of either kind, as OpenAI's clients name one; only at the door, where it becomes a picture or a video."""

    type: Literal["file"]
    file: Reference
    fps: Annotated[float, Field(gt=0, le=60)] | None = None
    min_pixels: Pixels | None = None
    max_pixels: Pixels | None = None


MediaPart = ImagePart | VideoPart
Part = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]


class CalledFunction(Strict):
    """What was called, and with what: JSON, as the model wrote it."""

    name: str
    arguments: str = "{}"


class ToolCall(Strict):
    """A call that the model made in an earlier turn."""

    id: str = ""
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Strict):
    """One turn of the conversation; a tool's says what came of a call."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[Part]
    tool_calls: list[ToolCall] = []
    tool_call_id: str | None = None

    @property
    def calls(self) -> dict[str, Any]:
        """What a chat template may want of its calls, or of the call that it answers."""
        found: dict[str, Any] = {}
        if self.tool_calls:
            found["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        if self.tool_call_id:
            found["tool_call_id"] = self.tool_call_id
        return found

    @property
    def parts(self) -> list[Part]:
        """The content as parts, also where it was given as a plain string."""
        return [TextPart(type="text", text=self.content)] if isinstance(self.content, str) else self.content


def short_form(prompt: str, images: Sequence[str] = (), video: str | None = None) -> list[Message]:
    """Give a prompt with pictures or a video as messages: one of the user's, media first."""
    parts: list[Part] = [ImagePart(type="image", image=reference) for reference in images]
    if video:
        parts.append(VideoPart(type="video", video=video))
    return [Message(role="user", content=[*parts, TextPart(type="text", text=prompt)])]


def references_of(part: MediaPart | FilePart) -> list[str]:
    """Give what the client named: addresses, upload ids or stored inline files; several where a video comes as its frames."""
    named = part.image if isinstance(part, ImagePart) else part.file if isinstance(part, FilePart) else part.video
    return named if isinstance(named, list) else [named]


def media_parts(messages: list[Message]) -> Iterator[MediaPart]:
    """Walk over the pictures and videos in order; at the door files of either kind are among them."""
    return (part for message in messages for part in message.parts if not isinstance(part, TextPart))
