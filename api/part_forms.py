"""The forms of a part that the API's description names, beside our own; :mod:`api.content` reads them, and others. Pure."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from shared.messages import FilePart, ImagePart, Reference, TextPart, VideoPart

Detail = Literal["auto", "low", "high", "original"]


class _Form(BaseModel):
    model_config = ConfigDict(extra="allow")


class SaidPart(_Form):
    """Text, as OpenAI's responses write it."""

    type: Literal["input_text", "output_text"]
    text: str


class MediaUrl(_Form):
    """Where a picture or a video is: an http(s) address, a data-URL or an upload's id."""

    url: Reference
    detail: Detail | None = None


class ImageUrlPart(_Form):
    """A picture, as OpenAI's chats write it."""

    type: Literal["image_url"]
    image_url: MediaUrl | Reference


class InputImagePart(_Form):
    """A picture, as OpenAI's responses write it: an address, a data-URL or an upload."""

    type: Literal["input_image"]
    image_url: Reference | None = None
    file_id: str | None = None
    detail: Detail | None = None


class VideoUrlPart(_Form):
    """A video, as vLLM's server has it."""

    type: Literal["video_url", "input_video"]
    video_url: MediaUrl | Reference


class FileReference(_Form):
    """An upload's id, or a file in base64."""

    file_id: str | None = None
    file_data: str | None = None
    filename: str | None = None


class ChatFilePart(_Form):
    """A file of either kind, as OpenAI's chats write it."""

    type: Literal["file"]
    file: FileReference


class InputFilePart(FileReference):
    """A file of either kind, as OpenAI's responses write it."""

    type: Literal["input_file"]
    file_url: str | None = None


OpenAIForm = SaidPart | ImageUrlPart | InputImagePart | VideoUrlPart | ChatFilePart | InputFilePart
PartForm = TextPart | ImagePart | VideoPart | FilePart | OpenAIForm
