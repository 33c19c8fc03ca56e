"""Sampling parameters: how a text is drawn, and what it must be. Pure."""

from __future__ import annotations

import json
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, JsonValue, StringConstraints, ValidationInfo, field_validator, model_validator

from shared.errors import UnsupportedFormat, UnsupportedParameter
from shared.fields import Strict

#: A schema is compiled to a grammar for each job; longer ones take seconds.
MAX_SCHEMA_BYTES = 32_768
MAX_TEXTS = 16  #: more are another job: they share a prompt, but take places from everybody
GREEDY = 1e-5  #: what vLLM takes for a temperature of 0
MAX_LOGPROBS = 20  #: what vLLM gives unless it is told otherwise
MAX_NAMED_TOKENS = 50_000  #: with their probabilities, in one job: 2 MB of its record


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
    n: Annotated[int, Field(ge=1, le=MAX_TEXTS)] = 1  #: texts, each drawn anew from the same prompt
    #: How many likely tokens to name beside each one that was drawn, with their probabilities; None: none of that.
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    #: End a text that says the same few words again and again; never one that is held to a form, whose end the form says.
    repetition_detection: bool = True
    response_format: ResponseFormat | None = None

    @field_validator("n")
    @classmethod
    def _can_differ(cls, value: int, info: ValidationInfo) -> int:
        if value > 1 and info.data.get("temperature", 1) < GREEDY:
            msg = "at temperature 0 all texts are the same, so n must be 1; raise temperature, or leave n out"
            raise ValueError(msg)
        return value

    @field_validator("logprobs")
    @classmethod
    def _can_be_kept(cls, value: int | None, info: ValidationInfo) -> int | None:
        tokens, texts = info.data.get("max_tokens") or 1, info.data.get("n", 1)
        if value is not None and (named := tokens * texts * (value + 1)) > MAX_NAMED_TOKENS:
            msg = (
                f"max_tokens, n and logprobs together name {named} tokens, and a job has room for {MAX_NAMED_TOKENS}; "
                "lower one of the three"
            )
            raise ValueError(msg)
        return value

    @property
    def most_tokens(self) -> int | None:
        """How long each text may be: what was said, else what its probabilities leave; None: as long as the context allows."""
        if self.max_tokens or self.logprobs is None:
            return self.max_tokens
        return MAX_NAMED_TOKENS // (self.n * (self.logprobs + 1))

    @property
    def ends_loops(self) -> bool:
        """Whether a text that repeats itself is ended."""
        return self.repetition_detection and self.response_format is None


def refuse_beyond_transformers(sampling: Sampling) -> None:
    """Refuse what only the vLLM engine can do.

    Raises:
        UnsupportedFormat: text of a form.
        UnsupportedParameter: something else that transformers does not have, or that is not asked of it.
    """
    if sampling.response_format:
        raise UnsupportedFormat(param="response_format")
    for name in ("presence_penalty", "frequency_penalty"):
        if getattr(sampling, name):
            msg = f"the transformers engine has no {name}; the vLLM engine has, and repetition_penalty works on both"
            raise UnsupportedParameter(msg, param=name)
    for name, asked in (("n", sampling.n > 1), ("logprobs", sampling.logprobs is not None)):
        if asked:
            msg = f"the transformers engine serves no {name}; the vLLM engine does"
            raise UnsupportedParameter(msg, param=name)
