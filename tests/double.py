"""An engine in the place of a model, for tests of what stands around it: it says what it sees, at once, and fails on demand.

``SIGHTLINE_ENGINE=tests.double:DoubleEngine`` (from the repository's root) puts it into any worker. The prompt orders faults:

    !slow S     takes S seconds to generate, in a slot of the engine
    !hold       keeps its slot until ``let_go`` of this engine is set
    !speak S    says its words one by one, S seconds apart, to whoever listens
    !fail [N]   fails, every time or the first N times, in a way that may work when it is tried again
    !long       is refused as longer than the context
    !crash      raises what no engine should
    !kill [N]   kills the engine, every time or the first N times: all requests in flight, and all that follow
    !hang [N]   makes the engine stop, every time or the first N times: nothing in flight ever ends
    !exit [N]   kills the worker's whole process, every time or the first N times
    !blind      says that it was shown no picture
    !model      has the name that the worker answers as said in its place
    !pid        has the number of the worker's process said in its place: another worker says something else
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from shared.errors import EngineFailed, PromptTooLong
from shared.jobs import Choice, EngineInfo, Likely, Output, TokenLogprob, Usage
from shared.sampling_params import Sampling
from shared.settings import Settings
from worker.engines.base import Conversation, EngineDead, Generation, Health, PixelLimits, Tools
from worker.media.pictures import Pixels

_ORDER = re.compile(r"!(slow|hold|speak|fail|long|crash|kill|hang|exit)\b(?: +(\d+(?:\.\d+)?))?")


@dataclass
class Request:
    """One that is in the engine."""

    job_id: str
    prompt: str
    words: list[str]
    on_text: Callable[[str], None] | None
    n: int
    logprobs: int | None
    spoken: int = 0  #: how many words were said so far
    aborted: asyncio.Event = field(default_factory=asyncio.Event)


class DoubleEngine:
    """See :class:`worker.engines.base.Engine`. Holds as many requests at a time as ``max_num_seqs`` says.

    It takes as many seconds to start as the variable ``DOUBLE_LOAD_S`` says, none where it is missing.
    """

    #: How often each order was given for a job, in this process: a new engine remembers what the dead one met.
    _given: ClassVar[Counter[tuple[str, str]]] = Counter()

    def __init__(self, settings: Settings) -> None:
        """Start with an empty book."""
        self.info = EngineInfo(name="double", version="1", model=settings.served_model_name)
        pictures, frames = (56 * 56, 1024 * 28 * 28), (56 * 56, 448 * 448)
        self.limits = PixelLimits(14, 28, *pictures, *frames)
        self.running = self.waiting = self.peak = 0
        self.finished: list[str] = []  #: ids of requests that got an answer, in order
        self.stopped: list[str] = []  #: ids of requests that were cancelled or aborted
        self.let_go = asyncio.Event()  #: lets end what holds
        self._slots = asyncio.Semaphore(settings.max_num_seqs)
        self._requests: dict[str, Request] = {}
        self._dead = asyncio.Event()
        self._hung_at_s: float | None = None

    async def start(self) -> None:
        """Take as long as a model would take to load."""
        await asyncio.sleep(float(os.environ.get("DOUBLE_LOAD_S", "0")))

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
        """Say the size and mean colour of everything, then the prompt."""
        prompt = " ".join(_texts(conversation))
        own = {"!pid": str(os.getpid()), "!model": self.info.model}
        words = [*_describe(conversation), *(own.get(word, word) for word in prompt.split(" "))]
        request = Request(
            request_id.rpartition("-")[0], prompt, words[: sampling.max_tokens], on_text, sampling.n, sampling.logprobs
        )
        self._requests[request_id] = request
        try:
            await self._enter()
            try:
                await self._obey(request)
            finally:
                self.running -= 1
                self._slots.release()
        except asyncio.CancelledError:
            self.stopped.append(request_id)
            raise
        finally:
            del self._requests[request_id]
        (self.stopped if request.aborted.is_set() else self.finished).append(request_id)
        return self._answer(conversation, request, is_cut=len(words) > len(request.words))

    async def _enter(self) -> None:
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        self.peak = max(self.peak, self.running)

    async def _obey(self, request: Request) -> None:
        if self._dead.is_set():
            raise EngineDead
        for order, number in _ORDER.findall(request.prompt):
            if order == "slow":
                await self._pass(float(number or 1), request)
            if order == "hold":
                while not (self.let_go.is_set() or request.aborted.is_set()):
                    await self._pass(0.02, request)
            if order == "speak":
                for _ in request.words[request.spoken :]:
                    self._say(request, request.spoken + 1)
                    await self._pass(float(number or 0), request)
            if order in {"slow", "hold", "speak"}:
                continue
            self._given[request.job_id, order] += 1
            if number and self._given[request.job_id, order] > float(number):
                continue
            self._fail(order)
            await self._pass(0, request)
        await self._pass(0, request)

    def _fail(self, order: str) -> None:
        if order == "fail":
            raise EngineFailed
        if order == "long":
            raise PromptTooLong
        if order == "crash":
            raise RuntimeError("the double was told to crash")
        if order == "exit":
            os._exit(70)
        if order == "hang":
            self._hung_at_s = self._hung_at_s or time.monotonic()
            return
        self._dead.set()
        raise EngineDead

    async def _pass(self, seconds: float, request: Request) -> None:
        """Let time go by, for as long as nothing happens to the engine or the request; a hung engine never gets further."""
        until = time.monotonic() + seconds
        while self._hung_at_s or time.monotonic() < until:
            if self._dead.is_set():
                raise EngineDead
            if request.aborted.is_set() and not self._hung_at_s:
                return
            await asyncio.sleep(min(0.02, max(0.0, until - time.monotonic())) or 0.02)
        if self._dead.is_set():
            raise EngineDead

    def _say(self, request: Request, n_words: int) -> None:
        """Say the words up to this one to whoever listens."""
        said, request.spoken = request.spoken, max(request.spoken, n_words)
        if request.on_text is None:
            return
        for n in range(said, request.spoken):
            request.on_text(request.words[n] if n == 0 else f" {request.words[n]}")

    def _answer(self, conversation: Conversation, request: Request, *, is_cut: bool) -> Generation:
        reason: Literal["stop", "length", "cancelled"] = "length" if is_cut else "stop"
        kept = request.words
        if request.aborted.is_set():
            kept, reason = kept[: max(request.spoken, len(kept) // 2)], "cancelled"
        self._say(request, len(kept))
        vision_tokens = 0
        for part in _media(conversation):
            first, *others = _frames(part)
            vision_tokens += max(1, (1 + len(others)) // 2) * (first.width_px // 28) * (first.height_px // 28)
        vision_tokens *= "!blind" not in request.prompt
        output = Output(
            text=" ".join(kept),
            finish_reason=reason,
            usage=Usage(
                prompt_tokens=vision_tokens + len(request.prompt),
                vision_tokens=vision_tokens,
                output_tokens=len(kept) * request.n,
            ),
            engine=self.info,
            logprobs=_logprobs(kept, request.logprobs),
            timings_ms={"render": 0, "generate": 0},
        )
        others = [Choice(text=f"{output.text} {n}", finish_reason=reason) for n in range(1, request.n)]
        return Generation(output.model_copy(update={"others": others}), tuple(range(len(kept))))

    async def abort(self, request_id: str) -> None:
        """Let the request end with what there is."""
        if request := self._requests.get(request_id):
            request.aborted.set()

    async def health(self) -> Health:
        """Tell what the book says."""
        stalled_s = time.monotonic() - self._hung_at_s if self._hung_at_s else 0.0
        return Health(not self._dead.is_set(), self.running, self.waiting, self.peak, stalled_s)

    async def close(self) -> None:
        """Drop whatever is in flight, as a process that ends does."""
        self._dead.set()


def mean_colour(pixels: Pixels) -> str:
    """Name the mean colour of a picture, as ``#dc1e1e``."""
    red, green, blue = pixels.as_image().resize((1, 1), resample=4).getpixel((0, 0))  # 4 is BOX: the true mean
    return f"#{red:02x}{green:02x}{blue:02x}"


def _describe(conversation: Conversation) -> list[str]:
    """Say in words what is seen: number of frames, size, mean colours, each medium ended by a semicolon."""
    words = list[str]()
    for part in _media(conversation):
        frames = _frames(part)
        width, height = frames[0].width_px, frames[0].height_px
        colours = dict.fromkeys(mean_colour(frame) for frame in frames)
        words += f"{len(frames)} x {width}x{height} {' '.join(colours)};".split(" ")
    return words


def _frames(part: dict[str, Any]) -> list[Pixels]:
    return list(part["video"].frames) if part["type"] == "video" else [part["image"]]


def _texts(conversation: Conversation) -> Iterator[str]:
    for message in conversation:
        yield from (part["text"] for part in message["content"] if part["type"] == "text")


def _media(conversation: Conversation) -> Iterator[dict[str, Any]]:
    for message in conversation:
        yield from (part for part in message["content"] if part["type"] != "text")


def _logprobs(words: list[str], most: int | None) -> list[TokenLogprob]:
    """A word is as likely as not, and so is its capital form."""
    if most is None:
        return []
    return [
        TokenLogprob(
            token=word, logprob=-0.5, top=[Likely(token=word, logprob=-0.5), Likely(token=word.title(), logprob=-0.9)][:most]
        )
        for word in words
    ]
