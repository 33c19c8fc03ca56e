"""OpenAI's chat request, with what vLLM's server adds to it. Pure: no I/O. :mod:`api.openai.chat_to_job` translates it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from api.content import Content, only_number
from api.openai.tools import Calls, Tool, ToolChoice
from shared.sampling_params import MAX_LOGPROBS


class _Lenient(BaseModel):
    """A part of OpenAI's contract; what it does not name is looked at when it is translated."""

    model_config = ConfigDict(extra="allow", frozen=True)


class _Known(BaseModel):
    """A part of which all fields are known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class WrittenCall(_Lenient):
    """What a call of an earlier turn said."""

    name: str
    arguments: str | dict[str, JsonValue] | None = None


class _ToolCall(_Lenient):
    id: str = ""
    type: Literal["function"] = "function"
    function: WrittenCall


class Turn(_Lenient):
    """A message; what it has beside these fields is looked at when it is translated."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = ""
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None


class _StreamOptions(_Lenient):
    include_usage: bool = False


class ChatFormat(_Lenient):
    """OpenAI's way to say what the text must be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, JsonValue] | None = None
    schema_: dict[str, JsonValue] | None = Field(default=None, alias="schema")  #: llama.cpp's, beside json_object


class SizeWishes(_Known):
    """Pixels of the smallest and the largest picture."""

    shortest_edge: int | None = None
    longest_edge: int | None = None


OneNumber = Annotated[float | None, BeforeValidator(only_number)]


class PixelWishes(_Known):
    """What vLLM's server passes on to the processor of a Qwen-VL checkpoint."""

    min_pixels: int | None = None
    max_pixels: int | None = None
    size: SizeWishes | None = None  #: the same two, as later processors name them
    fps: OneNumber = None
    do_sample_frames: bool | None = None  #: frames that come one by one are taken as they are, and films are sampled
    do_resize: Literal[True] | None = None


class VideoReading(_Known):
    """How a film is sampled."""

    num_frames: int | None = None
    fps: OneNumber = None


class MediaReading(_Known):
    """vLLM's way to say how videos are sampled."""

    video: VideoReading | None = None
    image: dict[str, JsonValue] | None = Field(default=None, max_length=0)


class StructuredOutputs(_Known):
    """vLLM's own way to say what the text must be."""

    json_: str | dict[str, JsonValue] | None = Field(default=None, alias="json")
    json_object: Literal[True] | None = None
    choice: list[str] | None = None
    regex: str | None = None
    grammar: str | None = None


class ChatRequest(_Lenient):
    """The body of POST /v1/chat/completions."""

    model: str
    messages: Annotated[list[Turn], Field(min_length=1)]
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    seed: int | None = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    repetition_detection: bool | None = None
    response_format: ChatFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: str | dict[str, JsonValue] | None = None
    guided_json_object: bool | None = None
    guided_choice: list[str] | None = None
    guided_regex: str | None = None
    guided_grammar: str | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    metadata: dict[str, JsonValue] | None = None
    mm_processor_kwargs: PixelWishes | None = None
    media_io_kwargs: MediaReading | None = None

    @property
    def most_tokens(self) -> int | None:
        """How long the answer may be; of the two names the newer one counts, and -1 is how local servers write no limit."""
        most = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return None if most == -1 else most

    @property
    def calls(self) -> Calls:
        """Which calls the answer may hold."""
        return Calls.of(self.tools, self.tool_choice, parallel=self.parallel_tool_calls)

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a count of its tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)
