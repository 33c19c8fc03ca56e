"""What an engine is: a resident model that works on many jobs at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shared.jobs import EngineInfo, Output
from shared.sampling_params import Sampling
from worker.boxes import Measure

#: Messages in Qwen's form. A picture is :class:`worker.media.pictures.Pixels`, a video
#: :class:`worker.media.frame_sampling.Frames`; both were decoded and scaled by worker/media/loader.py, so nothing in here
#: names a file or an address.
Conversation = Sequence[dict[str, Any]]
#: Functions that the model may call, in OpenAI's form.
Tools = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class PixelLimits:
    """How large the checkpoint wants its pictures and frames, in pixels (height x width).

    ``factor_px`` is the side of one vision token: patch size x merge size. ``patch_px`` is the patch size alone. ``measure`` is
    how the model says where something is.
    """

    patch_px: int
    factor_px: int
    image_min_px: int
    image_max_px: int
    frame_min_px: int
    frame_max_px: int
    temporal_patch: int = 2
    measure: Measure = "pixels"


@dataclass(frozen=True)
class Front:
    """One of the processes in front of an engine: each renders, asks the model and decodes its answers.

    The first (``index`` 0) loads the model; they find each other in a ``folder`` that is theirs alone.
    """

    index: int = 0
    count: int = 1
    folder: str = ""


@dataclass(frozen=True)
class Health:
    """How an engine is.

    ``running`` and ``waiting`` count requests by the engine's own book, as it was ``at_s`` on the machine's monotonic clock;
    ``running_peak`` is the most that one step has had since it was loaded; ``stalled_s`` says for how long it has had work
    and made no step.
    """

    alive: bool
    running: int
    waiting: int
    running_peak: int = 0
    stalled_s: float = 0.0
    at_s: float = 0.0


@dataclass(frozen=True)
class Generation:
    """An output with its tokens, which only tests and measurements need."""

    output: Output
    token_ids: tuple[int, ...]


class Engine(Protocol):
    """A resident model. All methods are called on one event loop."""

    @property
    def info(self) -> EngineInfo:
        """Name and version of the engine, model and revision; stands in every output."""

    @property
    def limits(self) -> PixelLimits:
        """What the checkpoint's own processor says about sizes."""

    async def start(self) -> None:
        """Load the model and warm it up; returns when jobs can be served.

        Raises:
            EngineUnavailable: a package, a GPU or the weights are missing; the message says what to do.
        """

    async def generate(
        self,
        conversation: Conversation,
        sampling: Sampling,
        *,
        request_id: str,
        urgency: int = 0,
        on_text: Callable[[str], None] | None = None,
        tools: Tools = (),
    ) -> Generation:
        """Answer one conversation; many calls run at a time.

        Args:
            conversation: messages with pictures and frames in them.
            sampling: how to draw the text.
            request_id: names the request for :meth:`abort` and the engine's log.
            urgency: requests with smaller numbers go first while they wait.
            tools: what the model is shown that it may call; its calls stand in the text, in the form of its family.
            on_text: is given each new piece of text, which joined are the output's; left out, nothing is decoded before
                the end.

        Raises:
            PromptTooLong: text and media do not fit the model's context.
            UnsupportedFormat: this engine cannot hold its answer to a ``response_format``.
            BadSchema: it can, but not to this one.
            EngineFailed: this request failed; the engine goes on.
            EngineDead: the engine is lost, and with it every request in flight.
        """

    async def abort(self, request_id: str) -> None:
        """Stop a request and free its slot; its ``generate`` returns what there is. Unknown ids are ignored."""

    async def health(self) -> Health:
        """Say whether the engine lives and how full it is."""

    async def close(self) -> None:
        """Stop the engine and free its memory."""


class EngineUnavailable(Exception):
    """The engine cannot start here; the message says why and what to do."""


class EngineDead(Exception):
    """The engine process is lost."""
