"""The ways that need no service, in a process with an engine of its own: ``python -m bench.gpu.engines ADDRESS KIND``.

``llm`` holds vLLM's LLM class, for the script that people have (a), the task that tutorials show (b) and the whole set at
once (c). ``async`` holds the workers' own engine and is given inputs that were rendered before (d), the ceiling.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection, Listener
from typing import Any

from bench.gpu.cases import PROMPT, decode
from bench.gpu.shape import ShapedEngine
from shared.sampling_params import Sampling
from shared.settings import Settings, load_settings
from worker.engines.vllm_setup import set_environment
from worker.media import pictures
from worker.media.loader import common_limits, media_part

#: (began_s, ended_s, tokens) of each job, on the clock of :func:`time.time`.
Done = tuple[float, float, int]


def greedy(tokens: int) -> Sampling:
    """Ask for an answer of so many tokens."""
    return Sampling(temperature=0, top_p=1, repetition_penalty=1, max_tokens=tokens, repetition_detection=False)


class Scripts:
    """What people write around vLLM's LLM class: qwen-vl-utils reads the file, the processor makes the prompt."""

    def __init__(self, settings: Settings) -> None:
        """Load the model."""
        set_environment(settings)
        from transformers import AutoProcessor
        from vllm import LLM

        engine = ShapedEngine(settings)
        arguments = engine.arguments()
        self.llm = LLM(**{name: value for name, value in arguments.items() if name != "shutdown_timeout"})
        self._processor = AutoProcessor.from_pretrained(settings.model_path)
        self._limits = {"min_pixels": settings.min_pixels, "max_pixels": settings.max_pixels}

    def prompt(self, file: str) -> dict[str, Any]:
        """Read one picture."""
        from qwen_vl_utils import process_vision_info

        media = {"type": "image", "image": file, **self._limits}
        messages = [{"role": "user", "content": [media, {"type": "text", "text": PROMPT}]}]
        text = self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        images, _ = process_vision_info(messages)
        return {"prompt": text, "multi_modal_data": {"image": images}}

    def generate(self, prompts: list[dict[str, Any]], tokens: int) -> list[int]:
        """Answer them; gives the tokens of each."""
        from vllm import SamplingParams

        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
        return [len(answer.outputs[0].token_ids) for answer in self.llm.generate(prompts, params, use_tqdm=False)]

    def one_by_one(self, files: list[str], tokens: int) -> list[Done]:
        """(a): read, generate, next."""
        return [self._timed([file], tokens)[0] for file in files]

    def whole_set(self, files: list[str], tokens: int) -> list[Done]:
        """(c): read all, then one call."""
        return self._timed(files, tokens)

    def _timed(self, files: list[str], tokens: int) -> list[Done]:
        began = time.time()
        counts = self.generate([self.prompt(file) for file in files], tokens)
        return [(began, time.time(), count) for count in counts]

    def celery_task(self, files: list[str], tokens: int) -> list[Done]:
        """(b): a Celery worker of one process that calls the model in its task."""
        from celery import Celery
        from celery.exceptions import WorkerShutdown

        app, done, began = Celery("tutorial", broker=os.environ["BENCH_BROKER"]), list[Done](), time.time()
        app.conf.broker_connection_retry_on_startup = True

        @app.task(name="describe")  # type: ignore[untyped-decorator]  # Celery has no types
        def describe(file: str) -> None:
            done.extend((began, ended, count) for _, ended, count in self._timed([file], tokens))
            if len(done) == len(files):
                raise WorkerShutdown(0)

        for file in files:
            describe.delay(file)
        app.Worker(pool="solo", loglevel="ERROR", quiet=True).start()
        return done


class Direct:
    """(d): the engine itself, with inputs that were made before the clock starts."""

    def __init__(self, settings: Settings) -> None:
        """Load the model on a loop of its own."""
        self._settings, self._loop = settings, asyncio.new_event_loop()
        self._engine = ShapedEngine(settings)
        self._loop.run_until_complete(self._engine.start())
        self._prepared: dict[tuple[str, ...], list[Any]] = {}  #: for all rounds, by the case's files
        self._pool = ProcessPoolExecutor(settings.decode_processes, get_context("forkserver"))

    def prepare(self, files: list[str], _: int = 0) -> list[Done]:
        """Decode and render, in advance."""
        if tuple(files) not in self._prepared:
            self._prepared[tuple(files)] = self._loop.run_until_complete(self._render_all(files))
        return []

    async def _render_all(self, files: list[str]) -> list[Any]:
        own, settings = self._engine.limits, self._settings
        image = common_limits((settings.min_pixels, settings.max_pixels), (own.image_min_px, own.image_max_px))
        frame = common_limits((settings.frame_min_pixels, settings.frame_max_pixels), (own.frame_min_px, own.frame_max_px))
        image_bounds, frame_bounds = (
            pictures.Bounds(own.factor_px, *limits, settings.max_image_pixels) for limits in (image, frame)
        )
        jobs = [(file, frame_bounds if file.endswith(".mp4") else image_bounds) for file in files]
        parts = [media_part(decoded) for decoded in self._pool.map(decode, *zip(*jobs, strict=True), chunksize=4)]
        messages = [{"role": "user", "content": [part, {"type": "text", "text": PROMPT}]} for part in parts]
        rendered: dict[int, Any] = {}
        waiting = iter(list(enumerate(messages)))

        async def work() -> None:
            for n, message in waiting:
                rendered[n] = await self._engine.render([message])

        await asyncio.gather(*(work() for _ in range(settings.decode_processes)))
        return [rendered[n] for n in range(len(files))]

    def saturated(self, files: list[str], tokens: int) -> list[Done]:
        """Keep as many in flight as a worker would."""
        return self._loop.run_until_complete(self._run(files, tokens, self._settings.in_flight))

    def one_by_one(self, files: list[str], tokens: int) -> list[Done]:
        """One after the other, for the latency."""
        return self._loop.run_until_complete(self._run(files, tokens, 1))

    async def _run(self, files: list[str], tokens: int, in_flight: int) -> list[Done]:
        prepared = self._prepared.get(tuple(files)) or await self._render_all(files)
        waiting, done = iter(list(enumerate(prepared))), list[Done]()
        sampling = greedy(tokens)

        async def work(jobs: Iterable[tuple[int, Any]]) -> None:
            for n, rendered in jobs:
                began = time.time()
                generation = await self._engine.answer(rendered, sampling, request_id=f"{began}-{n}")
                done.append((began, time.time(), len(generation.token_ids)))

        await asyncio.gather(*(work(waiting) for _ in range(in_flight)))
        return done


def main() -> None:
    """Serve orders over a socket until it closes: (method, files, tokens) in, what it did out."""
    address, kind = sys.argv[1:]
    with Listener(address, "AF_UNIX") as listener, listener.accept() as connection:
        made = Scripts(load_settings()) if kind == "llm" else Direct(load_settings())
        connection.send("ready")
        _serve(connection, made)


def _serve(connection: Connection, made: object) -> None:
    while True:
        try:
            method, files, tokens = connection.recv()
        except EOFError:
            return
        run: Callable[[list[str], int], list[Done]] = getattr(made, method)
        connection.send(run(files, tokens))


if __name__ == "__main__":
    main()
    os._exit(0)  # at once: engines need not say goodbye
