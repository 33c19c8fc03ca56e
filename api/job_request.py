"""The body of POST /v1/jobs, in either of its two forms, as a job's request. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from api.content import AnyMessage
from shared.errors import EmptyPrompt, SightlineError
from shared.jobs import JobRequest
from shared.messages import Reference, short_form
from shared.sampling_params import Sampling


def _in_our_words(raw: object) -> object:
    """Take transformers' name for the longest answer, which people bring in their scripts."""
    if not isinstance(raw, dict) or "max_new_tokens" not in raw or "max_tokens" in raw:
        return raw
    return {("max_tokens" if name == "max_new_tokens" else name): value for name, value in raw.items()}


class JobBody(JobRequest):
    """What a client asks for: a prompt with media, or whole messages."""

    messages: list[AnyMessage] = Field(default_factory=list)  # type: ignore[assignment]  # each form of a part becomes ours
    sampling: Annotated[Sampling, BeforeValidator(_in_our_words)] = Field(default_factory=Sampling)
    prompt: str | None = None
    images: list[Reference] = Field(default_factory=list)
    video: Reference | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.messages and self.is_short:
            msg = "give either messages, or prompt with images or video, not both"
            raise ValueError(msg)
        return self

    @property
    def is_short(self) -> bool:
        """Whether any part of the short form is there."""
        return self.prompt is not None or bool(self.images or self.video)

    def to_job(self) -> JobRequest:
        """Give the request in the form of messages."""
        given = {name: getattr(self, name) for name in JobRequest.model_fields if name in self.model_fields_set}
        if not self.messages:
            given["messages"] = short_form(self.prompt or "", self.images, self.video)
        return JobRequest.model_construct(**given)

    @contextmanager
    def in_its_own_words(self) -> Iterator[None]:
        """Name the fields in errors as the short form has them; inside, it is messages."""
        try:
            yield
        except SightlineError as error:
            if not self.messages and error.param and error.param.startswith("messages"):
                error.param = self._own_path(error)
            raise

    def _own_path(self, error: SightlineError) -> str:
        n = str(error.param).rpartition(".")[2]
        if n.isdecimal() and int(n) < len(self.images):
            return f"images.{n}"
        if n.isdecimal():
            return "video" if self.video and int(n) == len(self.images) else "prompt"
        return "prompt" if isinstance(error, EmptyPrompt) else "images"
