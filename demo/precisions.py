"""Measure what smaller weights and a smaller KV cache cost: ``python -m demo.precisions --n 1000 --clips 200``.

Sends the exam of :mod:`demo.evaluate` through one engine after another, each in another precision, greedily. Each gives a line
of JSON on stdout: the shares of right answers; ``same_answers``, the share whose tokens are those of the first precision; and
how unsure the model was of its tokens, which moves before answers do: ``doubt``, the mean of -ln p, and ``most_doubt``, the
largest: from 0.7 on, the token that came had less than half.

A precision is the name of a dtype, ``awq``, or one of vLLM's own ways to make the weights smaller while they load, such as
``fp8``; ``+kv`` after it makes the KV cache FP8. What cannot run on this machine has a line with ``error``.

How requests meet in a batch changes the last bits of sums, so that not even equal engines give equal tokens always: name the
first precision twice (``bfloat16,bfloat16,fp8``) to see how far that goes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from demo.evaluate import GREEDY, Question, ask, exam_settings, make_questions, report, same_tokens
from shared.errors import EngineFailed
from shared.settings import DEMO_MODEL, DTYPES
from worker.engines.base import EngineDead, EngineUnavailable, Generation

KV = "+kv"
#: With the probability of each token that came, and of no others.
ASKED = GREEDY.model_copy(update={"logprobs": 0})


def settings_of(precision: str, awq: Path) -> dict[str, str | None]:
    """Say what a precision's name stands for.

    Args:
        precision: such as ``fp8+kv``.
        awq: the folder of the checkpoint in AWQ.

    Returns:
        Settings of an engine. Where the weights are made smaller, all else is computed in bfloat16.
    """
    weights = precision.removesuffix(KV)
    plain = (*DTYPES, "awq")  # an AWQ checkpoint says itself what it is
    return {
        "model": str(awq) if weights == "awq" else DEMO_MODEL,
        "dtype": weights if weights in DTYPES else "bfloat16",
        "quantization": None if weights in plain else weights,
        "kv_cache_dtype": "fp8" if precision.endswith(KV) else "auto",
    }


async def sit(questions: Sequence[Question], precision: str, arguments: argparse.Namespace) -> list[Generation] | str:
    """Run the exam in one precision; gives the reason where that fails."""
    settings = exam_settings(arguments.in_flight, engine="vllm", **settings_of(precision, arguments.awq))
    try:
        return await ask(questions, settings, ASKED, in_flight=arguments.in_flight)
    except (EngineUnavailable, EngineDead, EngineFailed) as error:
        return str(error) or type(error).__name__


def doubts(answers: Sequence[Generation]) -> dict[str, float]:
    """Say how unsure the model was of its tokens, to three digits."""
    logprobs = [token.logprob for answer in answers for token in answer.output.logprobs]
    found = {"doubt": -sum(logprobs) / len(logprobs), "most_doubt": -min(logprobs)}
    return {name: float(f"{value:.3g}") for name, value in found.items()}


async def compare(arguments: argparse.Namespace) -> None:
    """Run the exam in each precision, and print each one's line."""
    questions = make_questions(arguments.n, arguments.clips, arguments.seed)
    first: list[Generation] | str | None = None
    for precision in arguments.precisions:
        answers = await sit(questions, precision, arguments)
        first = answers if first is None else first
        line: dict[str, Any] = {"precision": precision}
        if isinstance(answers, str):
            line["error"] = answers
        else:
            engine = answers[0].output.engine
            line |= {"quantization": engine.quantization, "kv_cache_dtype": engine.kv_cache_dtype}
            line |= {} if isinstance(first, str) else {"same_answers": same_tokens(answers, first)}
            line |= {**doubts(answers), **report(questions, answers)}
        print(json.dumps(line), flush=True)


def main() -> None:
    """Read the command line, quantise where needed, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = "bfloat16,fp8,fp8+kv,awq"
    parser.add_argument("--precisions", type=lambda text: text.split(","), default=names, help=f"left out: {names}")
    parser.add_argument("--n", type=int, default=200, help="scenes")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--seed", type=int, default=12345)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--awq", type=Path, help="what `python -m demo.quantize` wrote; left out: it is made for this run")
    arguments = parser.parse_args()
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # stdout is for our lines
    with tempfile.TemporaryDirectory() as folder:
        if arguments.awq is None:
            arguments.awq = Path(folder)
            if any(name.removesuffix(KV) == "awq" for name in arguments.precisions):
                from demo.quantize import quantize

                quantize(arguments.awq)
        asyncio.run(compare(arguments))


if __name__ == "__main__":
    main()
