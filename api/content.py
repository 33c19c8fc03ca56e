"""The parts of a message in the forms that clients write them, as the one form that jobs have. Pure: no I/O.

OpenAI, Qwen, LangChain and Anthropic each have a form for a picture; all of them come here. What would change the answer and is
not known is refused by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from api.part_forms import PartForm
from shared.messages import FilePart, ImagePart, Message, TextPart, VideoPart

Raw = dict[str, Any]
Kind = Literal["text", "image", "video", "file"]

#: OpenAI's `detail: low` scales a picture down to 512 x 512.
LOW_DETAIL_PX = 512 * 512
DETAILS = ("auto", "low", "high", "original", "")

_KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("text", "input_text", "output_text", "refusal"), "text"),
    **dict.fromkeys(("image", "image_url", "input_image"), "image"),
    **dict.fromkeys(("video", "video_url", "input_video"), "video"),
    **dict.fromkeys(("file", "input_file"), "file"),
}
#: Where a part without a type says what it is.
_SIGNS: Mapping[str, Kind] = {
    "text": "text",
    **dict.fromkeys(("image_url", "image"), "image"),
    **dict.fromkeys(("video_url", "video"), "video"),
    **dict.fromkeys(("file", "file_id", "file_data", "file_url"), "file"),
}
#: Names of what holds the reference, whether directly or in an object of its own.
_REFERENCES = ("image_url", "image", "video_url", "video", "file", "source", "url", "file_id", "file_data", "file_url", "uri")
_BASE64 = ("data", "base64")
_MEDIA_TYPES = ("mime_type", "media_type", "mimeType", "mediaType")
#: What steers how a medium is read; the same names in jobs.
_STEERING: Mapping[Kind, frozenset[str]] = {
    "text": frozenset(),
    "image": frozenset(ImagePart.model_fields) - {"type", "image"},
    "video": frozenset(VideoPart.model_fields) - {"type", "video"},
    "file": frozenset(FilePart.model_fields) - {"type", "file"},
}
#: What changes nothing here: names for caches and pages, and what an answer had beside its text.
_MEANINGLESS = frozenset(
    {
        *(
            "type",
            "source_type",
            "cache_control",
            "prompt_cache_breakpoint",
            "uuid",
            "id",
            "index",
            "name",
            "title",
            "filename",
        ),
        *("filename", "file_name", "annotations", "logprobs", "extras", "metadata", "format"),
    }
)
_FORMS = 'such as {"type": "image_url", "image_url": {"url": "https://..."}} or {"type": "text", "text": "..."}'


class PartRefused(ValueError):
    """A part has no known form, or an unknown field; ``field`` names the one at fault."""

    def __init__(self, message: str, field: str = "") -> None:
        """Say what is wrong with which field."""
        super().__init__(message)
        self.field = field


class NoReference(PartRefused):
    """A part that should name a file names none."""


def as_part(raw: object) -> object:
    """Give a part in the form of :data:`shared.messages.Part`, for pydantic to look at its values.

    Raises:
        NoReference: it names no file.
        PartRefused: it is of no known form, or asks for what is not known.
    """
    if isinstance(raw, str):
        return {"type": "text", "text": raw}
    if not isinstance(raw, dict):
        msg = f"a part of a message is a text or an object {_FORMS}"
        raise PartRefused(msg)
    kind = _kind(raw)
    if kind == "text":
        return _text(raw)
    found: Raw = {"type": kind}
    _read(raw, kind, found)
    if kind not in found:
        names = {"image": "image_url or image", "video": "video_url or video", "file": "file_id, file_data or file_url"}
        msg = f"a part of type {raw.get('type', kind)} names its file by {names[kind]}"
        raise PartRefused(msg, kind) if raw.get("type") == kind != "file" else NoReference(msg)
    return found


def _kind(raw: Raw) -> Kind:
    given = raw.get("type")
    if given is None:
        for name, kind in _SIGNS.items():
            if name in raw:
                return kind
        msg = f"a part of a message has a type, {_FORMS}"
        raise PartRefused(msg)
    if isinstance(given, str) and given in _KINDS:
        return _KINDS[given]
    msg = f"there are no parts of type {str(given)[:40]!a}; a part is of type text, image_url, image, video_url, video or file"
    raise PartRefused(msg)


def _text(raw: Raw) -> Raw:
    text = raw.get("text", raw.get("refusal"))
    _refuse_unknown(raw, {"text", "refusal"}, "text")
    return {"type": "text", "text": text}


def _read(raw: Raw, kind: Kind, found: Raw) -> None:
    """Take the reference and the wishes out of a part, or out of the object in it that holds them."""
    _refuse_unknown(raw, {*_REFERENCES, *_BASE64, *_MEDIA_TYPES, "detail", *_STEERING[kind]}, kind)
    for name in _STEERING[kind] & raw.keys():
        if raw[name] is not None:
            found[name] = only_number(raw[name]) if name == "fps" else raw[name]
    for name in _REFERENCES:
        value = raw.get(name)
        if isinstance(value, dict):
            _read(value, kind, found)
        elif value is not None and value != "":
            found[kind] = value
    for name in _BASE64:
        if isinstance(raw.get(name), str) and raw[name]:
            media_type = next((raw[name] for name in _MEDIA_TYPES if isinstance(raw.get(name), str)), "image/jpeg")
            found[kind] = raw[name] if raw[name].startswith("data:") else f"data:{media_type};base64,{raw[name]}"
    _look_closely(raw.get("detail"), found)


def only_number(value: object) -> object:
    """Take the one number out of a list: process_vision_info gives the rates of all videos, and clients pass them on."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _look_closely(detail: object, found: Raw) -> None:
    if detail is not None and detail not in DETAILS:
        msg = f"detail is auto, low, high or original, not {str(detail)[:40]!a}"
        raise PartRefused(msg, "detail")
    if detail == "low":
        given = found.get("max_pixels")
        found["max_pixels"] = min(LOW_DETAIL_PX, given) if isinstance(given, int) else LOW_DETAIL_PX


def _refuse_unknown(raw: Raw, known: set[str], kind: Kind) -> None:
    for name, value in raw.items():
        if name not in known and name not in _MEANINGLESS and value is not None:
            steering = f"; it may have {', '.join(sorted(_STEERING[kind]))}" if _STEERING[kind] else ""
            msg = f"a part of type {kind} has no {str(name)[:40]!a}{steering}"
            raise PartRefused(msg, str(name)[:40])


def _as_content(raw: object) -> object:
    if raw is None:
        return ""
    return [raw] if isinstance(raw, dict) else raw


AnyPart = Annotated[
    Annotated[TextPart | ImagePart | VideoPart | FilePart, Field(discriminator="type")],
    BeforeValidator(as_part, json_schema_input_type=PartForm),
]
#: What the API's description shows of a content.
CONTENT_FORM = str | list[AnyPart] | None
Content = Annotated[str | list[AnyPart], BeforeValidator(_as_content, json_schema_input_type=CONTENT_FORM)]


class AnyMessage(Message):
    """One turn, whose parts may have any of the forms that clients write."""

    role: Literal["system", "user", "assistant"]
    content: Content  # type: ignore[assignment]  # each of them becomes a part
