"""A job: what a client asks for, the states it passes through, what it produces. Pure: no I/O, no clock."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    JsonValue,
    StringConstraints,
    computed_field,
    field_validator,
)

from shared.errors import EmptyPrompt, MediaMissing, TooManyItems
from shared.fields import DAY_S, Strict, Told
from shared.media_report import Box, Medium, Notice
from shared.messages import ImagePart, Message, TextPart, VideoPart, media_parts
from shared.sampling_params import Sampling


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


EventType = Literal["job.running", "job.succeeded", "job.failed", "job.cancelled"]
ResponseEvent = Literal["response.completed", "response.incomplete", "response.failed", "response.cancelled"]
BatchEvent = Literal["batch.completed", "batch.failed", "batch.cancelled", "batch.expired"]
#: What an endpoint may ask for; the ends of jobs that were made as responses have two names, and go out under both.
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


#: It stands in paths and keys, so it has no slash and no control characters.
GroupName = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f/?#]+$")]


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
    group: GroupName | None = None  #: a name that jobs have in common, to be counted, cancelled and retried together
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
    tokens = (request.sampling.max_tokens or MAX_TOKENS_UNSAID) * request.sampling.n
    for message in request.messages:
        for part in message.parts:
            if isinstance(part, TextPart):
                tokens += len(part.text) // 2
            elif isinstance(part, ImagePart):
                tokens += min(part.max_pixels or image_px, image_px) // TOKEN_PX
            else:
                tokens += video_px // TOKEN_PX
    return max(1, tokens)


class Usage(Told):
    """Token counts; ``vision_tokens`` are those of ``prompt_tokens`` that stand for pixels."""

    prompt_tokens: int
    vision_tokens: int
    output_tokens: int


class EngineInfo(Told):
    """What produced an output.

    ``quantization`` says how its weights were made smaller (``fp8``, ``awq``…), ``kv_cache_dtype`` how its KV cache was.
    """

    name: str
    version: str
    model: str
    revision: str | None = None
    quantization: str | None = None
    kv_cache_dtype: str | None = None


class Likely(Told):
    """A token that might have come, and the natural logarithm of its probability."""

    token: str
    logprob: float


class TokenLogprob(Likely):
    """A token that came, and the likeliest in its place, itself among them where it was one."""

    top: list[Likely] = []


FinishReason = Literal["stop", "length", "repetition", "cancelled"]


class Choice(Told):
    """One of several texts of a job."""

    text: str
    finish_reason: FinishReason
    logprobs: list[TokenLogprob] = []


class Output(Choice):
    """What the engine produced. Timings are milliseconds by stage; ``partial`` where a cancel came before the end.

    Where ``n`` texts were asked for, the first stands here and ``others`` has the rest; ``usage`` counts them all.

    ``media`` tells what the model was shown, ``warnings`` what it was not, ``boxes`` what its text points at, in the pixels of
    the picture that was sent.
    """

    usage: Usage
    engine: EngineInfo
    timings_ms: dict[str, int] = {}
    media: list[Medium] = []
    warnings: list[Notice] = []
    boxes: list[Box] = []
    others: list[Choice] = []

    @computed_field  # type: ignore[prop-decorator]
    @property
    def partial(self) -> bool:
        """Whether the text is only what there was when the job was cancelled."""
        return self.finish_reason == "cancelled"


class Job(Told):
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
    group: str | None = None
    retry_of: str | None = None  #: the job that this one tries anew
    retried_as: str | None = None  #: the job that tries this one anew
    #: What one of OpenAI's responses says of its request; None of a job that was not made as one.
    response: Annotated[dict[str, Any] | None, Field(exclude=True)] = None


def response_id(job_id: str) -> str:
    """Name one of OpenAI's responses after its job."""
    return job_id.replace("job_", "resp_", 1)
