"""What OpenAI's surface answers, for its description; see :mod:`api.answers`. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, JsonValue

from api.answers import Page
from api.openai.tools import FunctionName
from shared.media_report import Box, Medium, Notice


class Model(BaseModel):
    """A model that workers answer as."""

    object: Literal["model"]
    id: str
    created: int
    owned_by: str


class Models(BaseModel):
    """The models that are ready."""

    object: Literal["list"]
    data: list[Model]


class Seen(BaseModel):
    """What the model was shown and pointed at; a field of our own beside OpenAI's."""

    media: list[Medium]
    warnings: list[Notice]
    boxes: list[Box]


class FunctionToCall(BaseModel):
    """A function that is to be called, with arguments in JSON."""

    name: str
    arguments: str


class FunctionCall(BaseModel):
    """A call in a chat's answer."""

    id: str
    type: Literal["function"]
    function: FunctionToCall


class ChatMessage(BaseModel):
    """What was answered: a text, calls, or both."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[FunctionCall] | None = None


class ChatLogprob(BaseModel):
    """A token that might have come."""

    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(ChatLogprob):
    """A token that came, and the likeliest ones in its place."""

    top_logprobs: list[ChatLogprob]


class Logprobs(BaseModel):
    """The natural logarithms of the tokens' probabilities."""

    content: list[ChatTokenLogprob]
    refusal: None


class ChatChoice(BaseModel):
    """One of the texts; ``stop_reason`` says ``repetition`` of one that began to repeat itself."""

    index: int
    message: ChatMessage
    finish_reason: Literal["stop", "length", "tool_calls"]
    logprobs: Logprobs | None
    stop_reason: Literal["repetition"] | None = None


class PromptTokensDetails(BaseModel):
    """Nothing is kept between requests."""

    cached_tokens: int


class ChatUsage(BaseModel):
    """Tokens; pixels are among the prompt's."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class ChatCompletion(BaseModel):
    """A chat's answer; ``GET /v1/jobs/job_<the same as in id>`` has more about it."""

    object: Literal["chat.completion"]
    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage
    sightline: Seen | None = None


class OutputText(BaseModel):
    """What was said."""

    type: Literal["output_text"]
    text: str
    annotations: list[JsonValue]
    logprobs: list[JsonValue]


ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputMessage(BaseModel):
    """A message in a response's output."""

    type: Literal["message"]
    id: str
    role: Literal["assistant"]
    status: ItemStatus
    content: list[OutputText]


class OutputCall(BaseModel):
    """A call in a response's output."""

    type: Literal["function_call"]
    id: str
    call_id: str
    name: str
    arguments: str
    status: ItemStatus


class InputTokensDetails(BaseModel):
    """Nothing is kept between requests."""

    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(BaseModel):
    """No model here reasons aside."""

    reasoning_tokens: int


class ResponseUsage(BaseModel):
    """Tokens; pixels are among the input's."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseError(BaseModel):
    """Why a response failed."""

    code: str
    message: str


class IncompleteDetails(BaseModel):
    """Why a response is cut off."""

    reason: Literal["max_output_tokens"]


class ResponseTool(BaseModel):
    """A function that the model was shown."""

    type: Literal["function"]
    name: FunctionName
    description: str | None
    parameters: dict[str, JsonValue] | None
    strict: bool | None


class NamedFunction(BaseModel):
    """The one function that had to be called."""

    type: Literal["function"]
    name: str


class ResponseText(BaseModel):
    """What the text had to be."""

    format: dict[str, JsonValue]


class ModelResponse(BaseModel):  # generators of clients have a `Response` of their own
    """One of OpenAI's responses: a view of a job, and what it says of its request."""

    object: Literal["response"]
    id: str
    created_at: int
    completed_at: int | None
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    output: list[Annotated[OutputMessage | OutputCall, Field(discriminator="type")]]
    usage: ResponseUsage | None
    metadata: dict[str, JsonValue]
    model: str
    background: bool
    store: bool
    instructions: str | None
    max_output_tokens: int | None
    temperature: float
    top_p: float
    text: ResponseText
    tools: list[ResponseTool]
    tool_choice: Literal["none", "auto", "required"] | NamedFunction
    parallel_tool_calls: bool
    previous_response_id: None
    truncation: Literal["disabled"]
    sightline: Seen | None = None


class BatchError(BaseModel):
    """What is wrong with a batch, or keeps it waiting."""

    code: str
    message: str
    line: int | None
    param: str | None


class BatchErrors(BaseModel):
    """All that is wrong with a batch."""

    object: Literal["list"]
    data: list[BatchError]


class RequestCounts(BaseModel):
    """A batch's lines."""

    total: int
    completed: int
    failed: int


class Batch(BaseModel):
    """A batch of chats. Instants are Unix seconds, UTC; the files are named when it has ended."""

    object: Literal["batch"]
    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    status: Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
    output_file_id: str | None
    error_file_id: str | None
    errors: BatchErrors | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None
    created_at: int
    expires_at: int
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None


class BatchPage(Page):
    """Batches, the newest first."""

    data: list[Batch]
