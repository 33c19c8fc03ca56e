"""OpenAI's chat request, and its translation into a job's. Pure: no I/O.

Unknown fields are let in, since clients send many that mean nothing here; those that would change the answer and cannot be
served are refused by name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from api.data_urls import first_bytes
from shared.errors import BadMediaReference, InvalidRequest, UnsupportedParameter
from shared.jobs import ImagePart, JobRequest, Message, Part, Sampling, TextPart, VideoPart
from shared.media_types import kind_of, sniff

#: OpenAI's `detail: low` scales a picture down to 512 x 512.
LOW_DETAIL_PX = 512 * 512
#: The openai package gives up after 600 s, so a chat that has not begun by then has nobody to answer to.
CHAT_START_DEADLINE_S = 600

#: What cannot be served, each with the values that ask for nothing.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "prompt_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "top_k": (-1, 0),
    "min_p": (0,),
    "min_tokens": (0,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "ignore_eos": (False,),
    "tools": ([],),
    "functions": ([],),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "structured_outputs": (),
    "echo": (False,),
}


class _Lenient(BaseModel):
    """A part of OpenAI's contract: unknown fields mean nothing here."""

    model_config = ConfigDict(extra="allow", frozen=True)


class _Text(_Lenient):
    type: Literal["text"]
    text: str


class _Url(_Lenient):
    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class _ImageUrl(_Lenient):
    type: Literal["image_url"]
    image_url: _Url


class _VideoUrl(_Lenient):
    type: Literal["video_url"]
    video_url: _Url


class _FileData(_Lenient):
    file_id: str | None = None
    file_data: str | None = None


class _File(_Lenient):
    type: Literal["file"]
    file: _FileData


_Part = Annotated[_Text | _ImageUrl | _VideoUrl | _File, Field(discriminator="type")]


class _Turn(_Lenient):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part] | None = None


class _StreamOptions(_Lenient):
    include_usage: bool = False


class _ResponseFormat(_Lenient):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, JsonValue] | None = None


class _Pixels(_Lenient):
    """What vLLM's server passes on to the processor of a Qwen-VL checkpoint."""

    min_pixels: int | None = None
    max_pixels: int | None = None
    fps: float | None = None


class ChatRequest(_Lenient):
    """The body of POST /v1/chat/completions."""

    model: str
    messages: Annotated[list[_Turn], Field(min_length=1)]
    temperature: float | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    response_format: _ResponseFormat | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    metadata: dict[str, JsonValue] | None = None
    mm_processor_kwargs: _Pixels | None = None

    @property
    def most_tokens(self) -> int | None:
        """How long the answer may be; of the two names the newer one counts."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a count of its tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


def to_job(chat: ChatRequest, media_types: dict[str, str], *, start_deadline_s: int, max_model_len: int) -> JobRequest:
    """Translate a chat into a job's request.

    Args:
        chat: as it came in.
        max_model_len: tokens that the context holds.
        media_types: of the uploads that its ``file`` parts name, see :func:`named_files`.
        start_deadline_s: after which nobody wants an answer any more.

    Raises:
        UnsupportedParameter: something that cannot be served was asked for.
        InvalidRequest: a value is out of its range.
    """
    _refuse_unsupported(chat)
    _refuse_as_vllm_does(chat, max_model_len)
    wanted = {
        "temperature": chat.temperature,
        "top_p": chat.top_p,
        "repetition_penalty": chat.repetition_penalty,
        "max_tokens": chat.most_tokens,
        "stop": [chat.stop] if isinstance(chat.stop, str) else chat.stop,
        "seed": chat.seed,
        "response_format": _format(chat.response_format),
    }
    pixels = chat.mm_processor_kwargs or _Pixels()
    try:
        return JobRequest(
            messages=[_message(m, turn, pixels, media_types) for m, turn in enumerate(chat.messages)],
            model=chat.model,
            sampling=Sampling.model_validate({name: value for name, value in wanted.items() if value is not None}),
            metadata=chat.metadata or {},
            start_deadline_s=start_deadline_s,
        )
    except ValidationError as error:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(f"{param}: {first['msg'].removeprefix('Value error, ')}", param=param or None) from error


def named_files(chat: ChatRequest) -> list[tuple[str, str]]:
    """List the uploads that ``file`` parts name, each with its path for error messages."""
    return [
        (f"messages.{m}.content.{p}", part.file.file_id)
        for m, turn in enumerate(chat.messages)
        if isinstance(turn.content, list)
        for p, part in enumerate(turn.content)
        if isinstance(part, _File) and part.file.file_id
    ]


def _refuse_unsupported(chat: ChatRequest) -> None:
    for name, harmless in UNSUPPORTED.items():
        value = (chat.model_extra or {}).get(name)
        if value is not None and value not in harmless:
            hint = "; use response_format with a json_schema for structured answers" if name in {"tools", "functions"} else ""
            raise UnsupportedParameter(f"this service does not support {name}; leave it out{hint}", param=name)


def _refuse_as_vllm_does(chat: ChatRequest, max_model_len: int) -> None:
    if chat.include_usage and not chat.stream:
        msg = "stream_options go with stream; leave them out, or set stream to true"
        raise InvalidRequest(msg, param="stream_options")
    if chat.most_tokens is not None and chat.most_tokens > max_model_len:
        name = "max_tokens" if chat.max_completion_tokens is None else "max_completion_tokens"
        msg = f"{name} is {chat.most_tokens}, but text, media and answer together have room for {max_model_len} tokens"
        raise InvalidRequest(msg, param=name)


def _format(wanted: _ResponseFormat | None) -> dict[str, Any] | None:
    if wanted is None or wanted.type == "text":
        return None
    return {"type": wanted.type} | ({"json_schema": wanted.json_schema} if wanted.json_schema is not None else {})


def _message(m: int, turn: _Turn, pixels: _Pixels, media_types: dict[str, str]) -> Message:
    role: Literal["system", "user", "assistant"] = "system" if turn.role == "developer" else turn.role
    if not isinstance(turn.content, list):
        return Message(role=role, content=turn.content or "")
    parts = [_part(f"messages.{m}.content.{p}", part, pixels, media_types) for p, part in enumerate(turn.content)]
    return Message(role=role, content=parts)


def _part(path: str, part: _Part, pixels: _Pixels, media_types: dict[str, str]) -> Part:
    sizes = {"min_pixels": pixels.min_pixels, "max_pixels": pixels.max_pixels}
    if isinstance(part, _Text):
        return TextPart(type="text", text=part.text)
    if isinstance(part, _VideoUrl):
        return VideoPart(type="video", video=part.video_url.url, fps=pixels.fps, **sizes)
    if isinstance(part, _ImageUrl):
        if part.image_url.detail == "low":
            sizes["max_pixels"] = min(LOW_DETAIL_PX, sizes["max_pixels"] or LOW_DETAIL_PX)
        return ImagePart(type="image", image=part.image_url.url, **sizes)
    reference = part.file.file_id or part.file.file_data
    if not reference:
        raise BadMediaReference("a file part needs a file_id or file_data", param=path)
    media_type = media_types.get(reference) if part.file.file_id else sniff(first_bytes(reference, param="file_data"))
    if media_type and kind_of(media_type) == "video":
        return VideoPart(type="video", video=reference, fps=pixels.fps, **sizes)
    return ImagePart(type="image", image=reference, **sizes)
