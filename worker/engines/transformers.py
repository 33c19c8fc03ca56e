"""The transformers engine, for machines where vLLM cannot run: jobs are gathered for a moment and run as one batch."""

from __future__ import annotations

import asyncio
import copy
import importlib.util
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any, Literal, NamedTuple

import structlog

from shared.aio import cancel_all
from shared.errors import EngineFailed, PromptTooLong
from shared.jobs import EngineInfo, Output, Usage
from shared.sampling_params import Sampling, refuse_beyond_transformers
from shared.settings import Settings
from shared.weights import note
from worker.engines.base import Conversation, EngineDead, EngineUnavailable, Generation, Health, PixelLimits, Tools
from worker.engines.batching import Waiting, alike, gather, options_of, settle
from worker.engines.inputs import PROCESSOR_KWARGS, Inputs, load_processor, pixel_limits, render
from worker.engines.repetition import repeats_itself
from worker.engines.sizes import vision_tokens

log = structlog.get_logger()


#: Tokens between two looks for a loop; each copies the batch from the GPU.
LOOK_EVERY = 32


class _Counts(NamedTuple):
    """Tokens that a request has in its batch."""

    prompt: int
    vision: int


class TransformersEngine:
    """Small batches through ``model.generate``. See :class:`worker.engines.base.Engine`."""

    @staticmethod
    def fronts(_: Settings) -> int:
        """It runs in a process of its own, see :func:`worker.engines.create_engine`."""
        return 1

    def __init__(self, settings: Settings) -> None:
        """Remember the settings; nothing is loaded before :meth:`start`.

        Raises:
            EngineUnavailable: FlashAttention is asked for and not there, or the weights are missing.
        """
        if settings.attn_implementation == "flash_attention_2" and not importlib.util.find_spec("flash_attn"):
            msg = (
                "SIGHTLINE_ATTN_IMPLEMENTATION=flash_attention_2 needs the package flash-attn and a GPU; leave it out for sdpa"
            )
            raise EngineUnavailable(msg)
        self._settings = settings
        self._path = settings.model_path
        self._processor = load_processor(self._path)
        self._processor.tokenizer.padding_side = "left"  # a batch's answers all begin at its end
        # A tokenizer keeps its padding between calls: counting with the batch's own, in another thread, would undo it.
        self._counter = copy.deepcopy(self._processor.tokenizer)
        self._limits = pixel_limits(self._processor)
        self._model: Any = None
        self._queue: asyncio.PriorityQueue[Waiting] = asyncio.PriorityQueue()
        self._batcher: asyncio.Task[None] | None = None
        self._running = self._running_peak = 0
        self._stepped_at_s = 0.0  #: when a layer of the model, or a batch, last began
        self._known: set[str] = set()
        self._aborted: set[str] = set()
        # One thread for the model: two generations at a time would only share the same cores or GPU.
        self._model_thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._render_threads = ThreadPoolExecutor(2, thread_name_prefix="render")
        self.info = EngineInfo(
            name="transformers",
            version=metadata.version("transformers"),
            model=settings.served_model_name,
            revision=note(self._path).get("revision"),
        )

    @property
    def limits(self) -> PixelLimits:
        """See :class:`worker.engines.base.Engine`."""
        return self._limits

    async def start(self) -> None:
        """Load the weights onto the GPU if there is one."""
        loop = asyncio.get_running_loop()
        log.info("engine.loading", model=self._path.name)
        self._model = await loop.run_in_executor(self._model_thread, self._load)
        self._batcher = asyncio.create_task(self._run_batches())

    def _load(self) -> Any:
        import torch
        from transformers import AutoModelForImageTextToText

        device = "cuda" if torch.cuda.is_available() else "cpu"
        options = {"attn_implementation": self._settings.attn_implementation} if self._settings.attn_implementation else {}
        try:
            model = AutoModelForImageTextToText.from_pretrained(self._path, dtype=self._settings.dtype, **options)
        except (OSError, ValueError, ImportError) as error:
            msg = f"transformers could not load {self._path.name}: {error}"
            raise EngineUnavailable(msg) from error
        # The checkpoint's own sampling defaults must not leak into requests that name theirs.
        model.generation_config.update(temperature=None, top_p=None, top_k=None, repetition_penalty=None, do_sample=False)
        self._watch(model)
        return model.to(device).eval()

    def _watch(self, model: Any) -> None:
        """Note each layer that begins: without a GPU a whole step may take minutes, a layer does only where it hangs."""
        from torch.nn import ModuleList

        for stack in model.modules():
            for layer in stack if isinstance(stack, ModuleList) else ():
                layer.register_forward_pre_hook(lambda *_: self._note_step())

    def _note_step(self) -> None:
        self._stepped_at_s = time.monotonic()

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
        """See :class:`worker.engines.base.Engine`; ``on_text`` gets the whole text at once."""
        refuse_beyond_transformers(sampling)
        self._known.add(request_id)
        try:
            generation = await self._answer(conversation, tools, sampling, request_id, urgency)
        finally:
            self._known.discard(request_id)
            self._aborted.discard(request_id)
        if on_text:
            on_text(generation.output.text)
        return generation

    async def _answer(
        self, conversation: Conversation, tools: Tools, sampling: Sampling, request_id: str, urgency: int
    ) -> Generation:
        loop, began = asyncio.get_running_loop(), time.monotonic()
        inputs = await loop.run_in_executor(
            self._render_threads, lambda: render(self._processor, conversation, tools, patch_px=self._limits.patch_px)
        )
        self._check_length(inputs, vision_tokens(conversation, self._limits))
        rendered = time.monotonic()
        waiting = Waiting(request_id, inputs, sampling, loop.create_future(), (urgency, rendered))
        self._queue.put_nowait(waiting)
        generation = await waiting.answer
        timings = {"render": round((rendered - began) * 1000), "generate": round((time.monotonic() - rendered) * 1000)}
        return Generation(generation.output.model_copy(update={"timings_ms": timings}), generation.token_ids)

    async def abort(self, request_id: str) -> None:
        """See :class:`worker.engines.base.Engine`; its batch goes on without it."""
        if request_id in self._known:  # else it would be remembered for ever
            self._aborted.add(request_id)

    async def health(self) -> Health:
        """See :class:`worker.engines.base.Engine`."""
        alive, now_s = self._batcher is not None and not self._batcher.done(), time.monotonic()
        stalled_s = now_s - self._stepped_at_s if self._running else 0.0
        return Health(alive, self._running, self._queue.qsize(), self._running_peak, stalled_s, now_s)

    async def close(self) -> None:
        """See :class:`worker.engines.base.Engine`."""
        if self._batcher:
            await cancel_all({self._batcher})
        while not self._queue.empty():
            settle(self._queue.get_nowait().answer, EngineDead())
        self._model = None
        self._model_thread.shutdown(wait=False, cancel_futures=True)
        self._render_threads.shutdown(wait=False, cancel_futures=True)

    async def _run_batches(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            gathered = await gather(self._queue, most=self._settings.batch_size, window_ms=self._settings.batch_window_ms)
            for batch in alike(gathered):
                self._note_step()
                self._running = len(batch)
                self._running_peak = max(self._running_peak, self._running)
                try:
                    generations = await loop.run_in_executor(self._model_thread, self._run_batch, batch)
                    answers: list[Generation | Exception] = list(generations)
                except Exception:  # the seam: whatever torch throws ends this batch, not the engine
                    log.warning("engine.batch_failed", exc_info=True)
                    answers = [EngineFailed()] * len(batch)
                self._running = 0
                for waiting, answer in zip(batch, answers, strict=True):
                    settle(waiting.answer, answer)

    def _run_batch(self, batch: list[Waiting]) -> list[Generation]:
        import torch

        model, tokenizer = self._model, self._processor.tokenizer
        inputs = self._processor(
            text=[waiting.inputs.prompt for waiting in batch],
            images=[image for waiting in batch for image in waiting.inputs.images] or None,
            videos=[frames for waiting in batch for frames, _ in waiting.inputs.videos] or None,
            video_metadata=[facts for waiting in batch for _, facts in waiting.inputs.videos] or None,
            padding=True,
            return_tensors="pt",
            **PROCESSOR_KWARGS,
        ).to(model.device)
        n_prompt = inputs["input_ids"].shape[1]
        options = options_of(batch[0].sampling, tokenizer, room=self._settings.max_model_len - n_prompt)
        if stops := batch[0].sampling.stop_token_ids:
            options["eos_token_id"] = [*_as_list(model.generation_config.eos_token_id), *stops]

        def stop(rows: Any, *_: Any, **__: Any) -> Any:
            said = [row[n_prompt:] for row in rows.tolist()] if rows.shape[1] % LOOK_EVERY == 0 else [[]] * len(batch)
            looping = [waiting.sampling.ends_loops and repeats_itself(row) for waiting, row in zip(batch, said, strict=True)]
            unwanted = [self._is_unwanted(waiting) for waiting in batch]
            return torch.tensor([a or b for a, b in zip(unwanted, looping, strict=True)], device=rows.device)

        with torch.inference_mode():
            whole = model.generate(**inputs, **options, stopping_criteria=[stop])
        config, answers = model.config, whole[:, n_prompt:].tolist()
        asked = [
            _Counts(sum(attended), sum(token in {config.image_token_id, config.video_token_id} for token in tokens))
            for attended, tokens in zip(inputs["attention_mask"].tolist(), inputs["input_ids"].tolist(), strict=True)
        ]
        return [self._generation(*one) for one in zip(batch, answers, asked, strict=True)]

    def _is_unwanted(self, waiting: Waiting) -> bool:
        return waiting.request_id in self._aborted or waiting.answer.done()  # or its caller has left

    def _generation(self, waiting: Waiting, tokens: list[int], asked: _Counts) -> Generation:
        ends = {*_as_list(self._model.generation_config.eos_token_id), *waiting.sampling.stop_token_ids}
        cut = next((n for n, token in enumerate(tokens) if token in ends), None)
        kept = tokens[: waiting.sampling.max_tokens] if cut is None else tokens[: cut + 1]
        text = self._processor.tokenizer.decode(kept, skip_special_tokens=True)
        stopped = cut is not None
        for stop in waiting.sampling.stop:
            before, found, _ = text.partition(stop)
            text, stopped = before, stopped or bool(found)
        reason: Literal["stop", "length", "repetition", "cancelled"] = "stop" if stopped else "length"
        if waiting.sampling.ends_loops and repeats_itself(tokens[:cut]):  # what fills its row up behind it is an end, too
            kept, reason = tokens[:cut], "repetition"
        if waiting.request_id in self._aborted:
            reason = "cancelled"
        usage = Usage(prompt_tokens=asked.prompt, vision_tokens=asked.vision, output_tokens=len(kept))
        output = Output(text=text, finish_reason=reason, usage=usage, engine=self.info)
        return Generation(output, tuple(kept))

    def _check_length(self, inputs: Inputs, n_vision: int) -> None:
        placeholders = len(inputs.images) + len(inputs.videos)
        n_prompt = len(self._counter.encode(inputs.prompt)) - placeholders + n_vision
        if n_prompt >= self._settings.max_model_len:
            msg = f"{n_prompt} tokens of text and media; the context holds {self._settings.max_model_len}"
            raise PromptTooLong(msg)


def _as_list(value: int | list[int]) -> list[int]:
    return [value] if isinstance(value, int) else list(value)
