"""Measure how often the demo model is right: ``python -m demo.evaluate --n 500 --seed 12345 --engine vllm``.

Draws scenes and clips that no training has seen, sends their files through the worker's own decoder and engine, asks in
English and in Chinese, and compares what the answers say, attribute by attribute, with what was drawn. The last line on
stdout is JSON; shares are of 0 to 1. ``--compare`` instead runs both engines on the same scenes, greedily, and also says
how many answers are equal token for token.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.captions import Language, Motion, Shape, Truth, read_caption
from demo.prompts import USUAL
from demo.scenes import Clip, Scene, clip, scene
from shared.sampling_params import Sampling
from shared.settings import Settings
from worker.engines import create_engine
from worker.engines.base import Conversation, Generation, PixelLimits
from worker.media.frame_sampling import FrameSampling, decode_video
from worker.media.loader import media_part
from worker.media.pictures import Bounds, decode_image

LANGUAGES: tuple[Language, ...] = ("en", "zh")
#: Each evaluation seed has this many sample seeds to itself.
SEED_STRIDE = 2**24
#: No chance in it: what differs between two runs differs by the engines.
GREEDY = Sampling(temperature=0, top_p=1, repetition_penalty=1, max_tokens=96)
SHOWN_MISTAKES = 12
MAX_SOURCE_PX = 50_000_000


@dataclass(frozen=True)
class Question:
    """One sample asked about in one language."""

    sample: Scene | Clip
    language: Language
    prompt: str

    @property
    def truth(self) -> Truth:
        """What a right answer says."""
        return self.sample.truth

    def conversation(self, limits: PixelLimits) -> Conversation:
        """Decode the sample's file as a worker does, and put the question after it.

        Args:
            limits: of the engine's checkpoint.
        """
        return [{"role": "user", "content": [_media(self.sample, limits), {"type": "text", "text": self.prompt}]}]


Mark = tuple[Language, Truth, Truth | None]  # the language, what is right, what was said


def _media(sample: Scene | Clip, limits: PixelLimits) -> dict[str, Any]:
    if isinstance(sample, Clip):
        bounds = Bounds(limits.factor_px, limits.frame_min_px, limits.frame_max_px, MAX_SOURCE_PX)
        sampling = FrameSampling(fps=2.0, nframes=None, max_frames=64)
        return media_part(decode_video(sample.mp4(), bounds, sampling))
    bounds = Bounds(limits.factor_px, limits.image_min_px, limits.image_max_px, MAX_SOURCE_PX)
    data = sample.jpeg() if sample.seed % 2 else sample.png()
    return media_part(decode_image(data, bounds))


def make_questions(n_scenes: int, n_clips: int, seed: int) -> list[Question]:
    """Draw the exam.

    Args:
        n_scenes: pictures, each asked about once in each language.
        n_clips: clips, likewise.
        seed: exams of different seeds share no sample, and none with the training.

    Returns:
        2 x (n_scenes + n_clips) questions.
    """
    rng, first = random.Random(seed), (seed % 2**23) * SEED_STRIDE
    samples: list[Scene | Clip] = [scene(first + i) for i in range(n_scenes)]
    samples += [clip(first + i) for i in range(n_clips)]
    return [
        Question(sample, language, rng.choice(USUAL["video" if isinstance(sample, Clip) else "image", language]))
        for sample in samples
        for language in LANGUAGES
    ]


async def ask(questions: Sequence[Question], settings: Settings, sampling: Sampling, *, in_flight: int) -> list[Generation]:
    """Start an engine, ask everything, many at a time, and stop the engine.

    Args:
        questions: what to ask.
        settings: engine, model, precision.
        sampling: how the text is drawn.
        in_flight: questions at a time.

    Returns:
        The answers, in the order of the questions.
    """
    engine = create_engine(settings)
    gate, n_done = asyncio.Semaphore(in_flight), 0

    async def one(index: int, question: Question) -> Generation:
        nonlocal n_done
        async with gate:
            conversation = await asyncio.to_thread(question.conversation, engine.limits)
            got = await engine.generate(conversation, sampling, request_id=f"question-{index}")
        n_done += 1
        if n_done % 100 == 0 or n_done == len(questions):
            print(f"{settings.engine}: {n_done} of {len(questions)} answers", file=sys.stderr)
        return got

    try:
        await engine.start()
        return await asyncio.gather(*(one(index, question) for index, question in enumerate(questions)))
    finally:
        await engine.close()


def report(questions: Sequence[Question], answers: Sequence[Generation]) -> dict[str, Any]:
    """Mark the answers.

    Args:
        questions: the exam.
        answers: one for each question.

    Returns:
        Shares of right answers: whole ones by language, and by attribute over both. An attribute is right in an
        answer where it is right for every shape of the picture.
    """
    marks = [(q, read_caption(a.output.text, q.language)) for q, a in zip(questions, answers, strict=True)]
    scenes = [(q.language, q.truth, said) for q, said in marks if isinstance(q.sample, Scene)]
    clips = [(q.language, q.truth, said) for q, said in marks if isinstance(q.sample, Clip)]

    def right(marks: Sequence[Mark], attribute: str) -> float:
        return _share([_words(truth, attribute) == _words(said, attribute) for _, truth, said in marks])

    return {
        "scenes": len(scenes) // len(LANGUAGES),
        "all_right": _by_language(scenes),
        **{f"{word}s": right(scenes, word) for word in ("kind", "colour", "place", "size")},
        "count": _share([_count(truth) == _count(said) for _, truth, said in scenes]),
        "clips": len(clips) // len(LANGUAGES),
        "clips_right": _by_language(clips),
        "clip_kinds": right(clips, "kind"),
        "clip_directions": right(clips, "direction"),
    }


def _by_language(marks: Sequence[Mark]) -> dict[str, float]:
    return {language: _share([truth == said for lang, truth, said in marks if lang == language]) for language in LANGUAGES}


def _words(said: Truth | None, attribute: str) -> list[str] | None:
    if said is None:
        return None
    parts: Sequence[Shape | Motion] = (said,) if isinstance(said, Motion) else said
    return [getattr(part, attribute, "") for part in parts]


def _count(said: Truth | None) -> int:
    return len(said) if isinstance(said, tuple) else 0


def same_tokens(answers: Sequence[Generation], others: Sequence[Generation]) -> float:
    """Give the share of answers that are equal token for token."""
    return _share([a.token_ids == b.token_ids for a, b in zip(answers, others, strict=True)])


def _share(marks: Sequence[bool]) -> float:
    return round(sum(marks) / len(marks), 4) if marks else 0.0


def show_mistakes(questions: Sequence[Question], answers: Sequence[Generation]) -> None:
    """Print the first wrong answers beside the right ones on stderr."""
    shown = 0
    for question, answer in zip(questions, answers, strict=True):
        if read_caption(answer.output.text, question.language) != question.truth and shown < SHOWN_MISTAKES:
            shown += 1
            kind = "clip" if isinstance(question.sample, Clip) else "scene"
            right = question.sample.caption(question.language)
            print(
                f"{kind} {question.sample.seed} {question.prompt}\n  is:   {right}\n  said: {answer.output.text}",
                file=sys.stderr,
            )


def exam_settings(in_flight: int, **others: Any) -> Settings:
    """Give the settings of an engine for an exam, with so many questions at a time."""
    slots = {"max_num_seqs": in_flight, "batch_size": in_flight}
    small = {"max_model_len": 2048, "limit_images": 1, "enforce_eager": True}  # no question needs more; it starts sooner
    return Settings.model_validate(slots | small | others)


async def evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the exam, or the comparison, that the command line asks for."""
    import torch

    n_clips = arguments.n // 5 if arguments.clips is None else arguments.clips
    questions = make_questions(arguments.n, n_clips, arguments.seed)
    dtype = arguments.dtype or ("auto" if torch.cuda.is_available() else "float32")

    def settings(engine: str) -> Settings:
        return exam_settings(arguments.in_flight, engine=engine, model=str(arguments.model), dtype=dtype)

    if arguments.compare:
        one = await ask(questions, settings("vllm"), GREEDY, in_flight=arguments.in_flight)
        other = await ask(questions, settings("transformers"), GREEDY, in_flight=arguments.in_flight)
        return {**report(questions, one), "answers": len(questions), "same_tokens": same_tokens(one, other)}
    answers = await ask(questions, settings(arguments.engine), Sampling(max_tokens=96), in_flight=arguments.in_flight)
    show_mistakes(questions, answers)
    return {"engine": arguments.engine, **report(questions, answers)}


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200, help="scenes")
    parser.add_argument("--clips", type=int, help="left out: one for every five scenes")
    parser.add_argument("--seed", type=int, default=12345)
    parser.add_argument("--engine", choices=("vllm", "transformers"), default="vllm")
    parser.add_argument("--model", type=Path, default=Path(__file__).parent / "model")
    parser.add_argument("--dtype", help="left out: float32 on a CPU, the checkpoint's own on a GPU")
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--compare", action="store_true", help="both engines, greedy, token for token")
    print(json.dumps(asyncio.run(evaluate(parser.parse_args()))))


if __name__ == "__main__":
    main()
