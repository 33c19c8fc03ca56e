"""A job: what a client asks for, the states it passes through, what it produces. Pure: no I/O, no clock."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    computed_field,
    field_validator,
    model_validator,
)

from shared.errors import EmptyPrompt, MediaMissing, TooManyItems, UnsupportedFormat, UnsupportedParameter
from shared.seen import Box, Medium, Notice


class JobStatus(StrEnum):
    """Where a job stands; the words are OpenAI's."""

    QUEUED = "queued"  #: accepted and stored; a worker's claim moves it on, a cancel or a passed deadline ends it
    RUNNING = "running"  #: claimed under a lease; if its worker dies, rescue queues it again or fails it
    SUCCEEDED = "succeeded"  #: has its output
    FAILED = "failed"  #: has an error with a code: bad media, a timeout, lost workers, ...
    CANCELLED = "cancelled"  #: ended by its client

    @property
    def is_final(self) -> bool:
        """Whether no move leads out of this state."""
        return not TRANSITIONS[self]


#: The legal moves. The store's scripts are given this very table, so no other place knows it.
TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED, JobStatus.FAILED}),
    JobStatus.RUNNING: frozenset({JobStatus.QUEUED, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}


class Priority(StrEnum):
    """Which jobs go first, in that order. None starves, see ``claim.lua``."""

    INTERACTIVE = "interactive"  #: somebody waits in front of a chat
    DEFAULT = "default"
    BULK = "bulk"  #: the lines of a batch


class Stage(StrEnum):
    """What a running job is doing."""

    FETCHING = "fetching"
    DECODING = "decoding"
    GENERATING = "generating"


class Strict(BaseModel):
    """A part of the HTTP contract: unknown fields are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


DAY_S = 24 * 3600
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


#: A schema is compiled to a grammar for each job; longer ones take seconds.
MAX_SCHEMA_BYTES = 32_768


class JsonSchema(Strict):
    """A JSON schema that the text must satisfy; ``name``, ``description`` and ``strict`` are OpenAI's and change nothing."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    json_schema: Annotated[dict[str, JsonValue], Field(alias="schema")]
    name: str | None = None
    description: str | None = None
    strict: bool | None = None

    @field_validator("json_schema")
    @classmethod
    def _short(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if len(json.dumps(value, ensure_ascii=False, allow_nan=False).encode()) > MAX_SCHEMA_BYTES:
            msg = f"the schema is longer than {MAX_SCHEMA_BYTES} bytes"
            raise ValueError(msg)
        return value


class ResponseFormat(Strict):
    """What the text must be: any JSON object, JSON of a schema, one of some texts, or of a grammar.

    The vLLM engine holds it to that token by token.
    """

    type: Literal["json_object", "json_schema", "choice", "regex", "grammar"]
    json_schema: JsonSchema | None = None
    choice: Annotated[list[Annotated[str, StringConstraints(min_length=1)]], Field(min_length=1, max_length=1000)] | None = None
    regex: Annotated[str, StringConstraints(min_length=1, max_length=MAX_SCHEMA_BYTES)] | None = None
    grammar: Annotated[str, StringConstraints(min_length=1, max_length=MAX_SCHEMA_BYTES)] | None = None

    @model_validator(mode="after")
    def _what_is_due(self) -> Self:
        for name in ("json_schema", "choice", "regex", "grammar"):
            if (self.type == name) != (getattr(self, name) is not None):
                msg = f"{name} comes with the type {name}, and only with it"
                raise ValueError(msg)
        return self


class Sampling(Strict):
    """How the text is drawn; the defaults are those of the Qwen2.5-VL cookbook, nearly greedy."""

    temperature: Annotated[float, Field(ge=0, le=2)] = 0.1
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.001
    top_k: Annotated[int, Field(ge=-1, le=1_000_000)] = 0  #: tokens that are drawn from; 0 and -1: all
    min_p: Annotated[float, Field(ge=0, le=1)] = 0
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] = 1.05
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0
    max_tokens: Annotated[int, Field(ge=1, le=32_768)] | None = 512  #: None: what text and media leave of the context
    stop_token_ids: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=64)] = []
    stop: Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=64)]], Field(max_length=4)] = []
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    #: End a text that says the same few words again and again; never one that is held to a form, whose end the form says.
    repetition_detection: bool = True
    response_format: ResponseFormat | None = None

    @property
    def ends_loops(self) -> bool:
        """Whether a text that repeats itself is ended."""
        return self.repetition_detection and self.response_format is None


def refuse_beyond_transformers(sampling: Sampling) -> None:
    """Refuse what only the vLLM engine can do.

    Raises:
        UnsupportedFormat: text of a form.
        UnsupportedParameter: a penalty that transformers does not have.
    """
    if sampling.response_format:
        raise UnsupportedFormat(param="response_format")
    for name in ("presence_penalty", "frequency_penalty"):
        if getattr(sampling, name):
            msg = f"the transformers engine has no {name}; the vLLM engine has, and repetition_penalty works on both"
            raise UnsupportedParameter(msg, param=name)


EventType = Literal["job.running", "job.succeeded", "job.failed", "job.cancelled"]
ResponseEvent = Literal["response.completed", "response.incomplete", "response.failed", "response.cancelled"]
BatchEvent = Literal["batch.completed", "batch.failed", "batch.cancelled", "batch.expired"]
#: What an endpoint may ask for; the ends of jobs that were made as responses have two names, and are told by both.
EndpointEvent = Literal[EventType, ResponseEvent, BatchEvent]
Payload = Literal["full", "thin"]
HookUrl = Annotated[str, StringConstraints(min_length=1, max_length=2048)]


class Webhook(Strict):
    """Where to post a job's events, and which; a thin payload leaves the output out."""

    url: HookUrl
    events: list[EventType] = ["job.succeeded", "job.failed", "job.cancelled"]
    payload: Payload = "full"


#: Metadata stand in every record and webhook, whose payloads stay under 20 kB.
MAX_METADATA_BYTES = 16_000


class JobRequest(Strict):
    """What is to be done, in the one form that records and workers know: whole messages.

    Clients may also send a prompt with pictures or a video; :mod:`api.job_request` turns that into messages at the door.
    """

    messages: list[Message] = []
    tools: list[dict[str, JsonValue]] = []  #: functions that the model is shown, in OpenAI's form
    model: str | None = None
    sampling: Sampling = Field(default_factory=Sampling)  # pydantic would copy a default deeply, for each request
    webhook: Webhook | None = None
    metadata: Annotated[dict[str, JsonValue], Field(max_length=16)] = {}
    start_deadline_s: Annotated[int, Field(ge=1, le=7 * DAY_S)] | None = None
    run_timeout_s: Annotated[int, Field(ge=1, le=DAY_S)] | None = None
    result_ttl_s: Annotated[int, Field(ge=1, le=30 * DAY_S)] | None = None

    @field_validator("metadata")
    @classmethod
    def _can_be_written(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        # Python's reader lets NaN and lone surrogates in; neither could be written again.
        if len(json.dumps(value, ensure_ascii=False, allow_nan=False).encode()) > MAX_METADATA_BYTES:
            msg = f"metadata are longer than {MAX_METADATA_BYTES} bytes"
            raise ValueError(msg)
        return value

    def check(self, *, max_images: int, max_videos: int, chat: bool = False) -> None:
        """Refuse what no engine could answer.

        Args:
            max_images: most pictures in one job.
            max_videos: most videos in one job.
            chat: take text without media and media without text, as a chat does.

        Raises:
            EmptyPrompt: no user text.
            MediaMissing: neither a picture nor a video.
            TooManyItems: more media than the engine was set up for.
        """
        texts = [part.text for m in self.messages if m.role == "user" for part in m.parts if isinstance(part, TextPart)]
        media = list(media_parts(self.messages))
        if not any(text.strip() for text in texts) and not (chat and media):
            raise EmptyPrompt(param="messages")
        if not media and not chat:
            raise MediaMissing(param="messages")
        n_videos = sum(isinstance(part, VideoPart) for part in media)
        n_images = sum(isinstance(part, ImagePart) for part in media)  # a file of either kind is counted once it is known
        if n_images > max_images or n_videos > max_videos:
            msg = (
                f"{n_images} pictures and {n_videos} videos; one job takes at most {max_images} and {max_videos}, as "
                "SIGHTLINE_LIMIT_IMAGES and SIGHTLINE_LIMIT_VIDEOS say"
            )
            raise TooManyItems(msg, param="messages")


def short_form(prompt: str, images: Sequence[str] = (), video: str | None = None) -> list[Message]:
    """Give a prompt with pictures or a video as messages: one of the user's, media first."""
    parts: list[Part] = [ImagePart(type="image", image=reference) for reference in images]
    if video:
        parts.append(VideoPart(type="video", video=video))
    return [Message(role="user", content=[*parts, TextPart(type="text", text=prompt)])]


def references_of(part: MediaPart) -> list[str]:
    """Give what the client named: addresses, upload ids or stored inline files; several where a video comes as its frames."""
    named = part.image if isinstance(part, ImagePart) else part.video
    return named if isinstance(named, list) else [named]


def media_parts(messages: list[Message]) -> Iterator[MediaPart]:
    """Walk over the pictures and videos in order."""
    return (part for message in messages for part in message.parts if not isinstance(part, TextPart))


#: What a job is taken for that may say as much as fits.
MAX_TOKENS_UNSAID = 2048
#: Pixels of a side that the models make one token of.
TOKEN_PX = 28 * 28


def estimated_tokens(request: JobRequest, *, image_px: int, video_px: int) -> int:
    """Estimate what a job costs an engine, for the fairness between owners; nobody has seen its media yet.

    Args:
        request: the job.
        image_px: what a picture has at most that does not say.
        video_px: what a video has, all its frames together.
    """
    tokens = request.sampling.max_tokens or MAX_TOKENS_UNSAID
    for message in request.messages:
        for part in message.parts:
            if isinstance(part, TextPart):
                tokens += len(part.text) // 2
            elif isinstance(part, ImagePart):
                tokens += min(part.max_pixels or image_px, image_px) // TOKEN_PX
            else:
                tokens += video_px // TOKEN_PX
    return max(1, tokens)


class Usage(BaseModel):
    """Token counts; ``vision_tokens`` are those of ``prompt_tokens`` that stand for pixels."""

    prompt_tokens: int
    vision_tokens: int
    output_tokens: int


class EngineInfo(BaseModel):
    """What produced an output; ``quantization`` says how its weights were made smaller (``fp8``, ``awq``…), if they were."""

    name: str
    version: str
    model: str
    revision: str | None = None
    quantization: str | None = None


class Output(BaseModel):
    """What the engine produced. Timings are milliseconds by stage; ``partial`` where a cancel came before the end.

    ``media`` tells what the model was shown, ``warnings`` what it was not, ``boxes`` what its text points at, in the pixels of
    the picture that was sent.
    """

    text: str
    finish_reason: Literal["stop", "length", "repetition", "cancelled"]
    usage: Usage
    engine: EngineInfo
    timings_ms: dict[str, int] = {}
    media: list[Medium] = []
    warnings: list[Notice] = []
    boxes: list[Box] = []

    @computed_field  # type: ignore[prop-decorator]
    @property
    def partial(self) -> bool:
        """Whether the text is only what there was when the job was cancelled."""
        return self.finish_reason == "cancelled"


class Job(BaseModel):
    """A job as its client sees it. Instants are Unix seconds, UTC, by the clock of Redis."""

    id: str
    object: Literal["job"] = "job"
    status: JobStatus
    model: str | None = None  #: that is to answer it, and no other does
    stage: Stage | None = None
    attempt: int = 0
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    output: Output | None = None
    error: dict[str, Any] | None = None
    metadata: dict[str, JsonValue] = {}
    #: What one of OpenAI's responses says of its request; None of a job that was not made as one.
    response: Annotated[dict[str, Any] | None, Field(exclude=True)] = None


def response_id(job_id: str) -> str:
    """Name one of OpenAI's responses after its job."""
    return job_id.replace("job_", "resp_", 1)
