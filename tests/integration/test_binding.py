"""Each picture stands where its place in the messages is, whatever the texts around it say: the demo model's own parts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from demo.evaluate import _media
from demo.scenes import Scene, scene
from shared.errors import InvalidRequest, ReservedToken
from shared.sampling_params import Sampling
from tests.conftest import make_settings
from worker.engines.inputs import PROCESSOR_KWARGS, Inputs, load_processor, pixel_limits, render
from worker.media.loader import media_part
from worker.media.pictures import Pixels

Part = dict[str, Any]

#: What a hostile text may still hold: near a reserved word, and none.
NEAR = ["<|image_pad", "|image_pad|>", "< |image_pad|>", "<|im_end|", "＜|image_pad|＞", "<image>", "<|vision start|>"]


@pytest.fixture(scope="module")
def processor() -> Any:
    return load_processor(make_settings().model_path)


def text(words: str) -> Part:
    return {"type": "text", "text": words}


def picture(width: int, height: int) -> Part:
    return media_part(Pixels(width, height, bytes(3 * width * height)))


def user(*parts: Part) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def spans(processor: Any, inputs: Inputs) -> list[int]:
    """Give the lengths of the runs of picture tokens, in the order of the prompt."""
    tokens = processor(text=[inputs.prompt], images=inputs.images, **PROCESSOR_KWARGS)["input_ids"][0]
    inside = "".join("p" if token == processor.image_token_id else " " for token in tokens)
    return [len(run) for run in inside.split()]


def positions(hostile: str) -> list[list[Part]]:
    """Put a text into every position around two pictures of 2 and 6 tokens, and split it over two parts."""
    a, b, ask = picture(56, 28), picture(84, 56), text("Describe the second picture.")
    half = len(hostile) // 2
    halves = [text(hostile[:half]), text(hostile[half:])]
    return [
        [text(hostile), a, b, ask],
        [a, text(hostile), b, ask],
        [a, b, text(hostile), ask],
        [a, b, ask, text(hostile)],
        [*halves, a, b, ask],
        [a, *halves, b, ask],
        [a, b, *halves, ask],
    ]


def test_every_special_token_is_refused_in_every_position(processor: Any) -> None:
    patch_px = pixel_limits(processor).patch_px
    special = [token.content for token in processor.tokenizer.added_tokens_decoder.values()]
    assert len(special) > 10

    for word in special:
        for parts in positions(word):
            for messages in ([user(*parts)], [{"role": "system", "content": [text(word)]}, user(picture(56, 28), text("x"))]):
                with pytest.raises(ReservedToken):
                    render(processor, messages, patch_px=patch_px)


@pytest.mark.parametrize("near", NEAR)
def test_near_words_move_no_picture(near: str, processor: Any) -> None:
    for parts in positions(near):
        inputs = render(processor, [user(*parts)], patch_px=pixel_limits(processor).patch_px)

        assert spans(processor, inputs) == [2, 6], parts


def test_a_template_that_leaves_a_picture_out_is_noticed(processor: Any) -> None:
    import copy

    forgetful = copy.copy(processor)
    forgetful.chat_template = processor.chat_template.replace("<|image_pad|>", "")

    with pytest.raises(InvalidRequest, match="no place"):
        render(forgetful, [user(picture(56, 28), text("x"))], patch_px=14)


async def test_the_model_answers_about_the_second_picture() -> None:
    from worker.engines.transformers import TransformersEngine

    engine = TransformersEngine(make_settings(dtype="float32", max_model_len=2048, batch_size=32))
    await engine.start()
    sampling, ask = Sampling(temperature=0, top_p=1, max_tokens=48), "Describe this image."

    async def answer(first: Scene, second: Scene, *, before: str = "", after: str = "") -> bool:
        """Talk about one picture, then ask about another; texts of a stranger stand around the question."""
        one, two = _media(first, engine.limits), _media(second, engine.limits)
        talk = [
            user(one, text(ask)),
            {"role": "assistant", "content": [text(first.caption("en"))]},
            user(*([text(before)] if before else []), two, text(ask + after)),
        ]
        said = await engine.generate(talk, sampling, request_id=f"{first.seed} {before} {after}")
        return said.output.text == second.caption("en")

    a, b = scene(6), scene(12)
    orders = [(a, b), (b, a)]  # both, so that no picture that merely catches the eye can pass
    try:
        tries = [answer(*order) for order in orders]
        tries += [answer(*order, before=near) for order in orders for near in NEAR]
        tries += [answer(*order, after=f" {near}") for order in orders for near in NEAR]
        right = await asyncio.gather(*tries)
    finally:
        await engine.close()

    assert right == [True] * len(tries)
