"""What is odd about texts, and how they are trimmed."""

from __future__ import annotations

import pytest

from sightline.describe.flags import flags_of, plain
from sightline.describe.question import Preset, Question, default_prompt

GOOD = [
    ("Describe this in detail.", "A red bicycle leans against a brick wall; its basket holds tulips."),
    ("请用中文描述一下这张图片", "一辆红色的自行车靠在砖墙上，车筐里放着郁金香。"),
    ("请用中文描述一下这张图片", "图中是 MacBook Pro 的 M2 Max 型号，旁边放着一杯咖啡。"),
    ("Describe this in detail.", "A sign that reads 出口 above a door."),
    ("请用英文描述这张图片", "A red bicycle leans against a brick wall."),
    ("Translate the sign to Chinese", "出口在左边"),
    ("Describe this in detail.", "| a | b |\n|---|---|\n|---|---|\n| 1 | 2 |\n| 3 | 4 |"),
    ("Describe", "A sorry sight: I can't help noticing the broken window. " + "Fine. " * 3),
    ("How many?", "12 cats"),
]


@pytest.mark.parametrize(("prompt", "text"), GOOD)
def test_a_good_text_has_no_flags(prompt: str, text: str) -> None:
    assert flags_of(text, prompt=prompt, finish_reason="stop") == []


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("refusal", "I'm sorry, but I can't help with identifying people."),
        ("refusal", "I cannot describe this image."),
        ("refusal", "Sorry, I can’t assist with that."),
        ("refusal", "As an AI language model, I do not see pictures."),
        ("repetition", "A cat and a dog and a dog and a dog and a dog and a dog and a dog"),
        ("repetition", "There is a cat. It sleeps. It sleeps. It sleeps. It sleeps."),
        ("too_short", "ok"),
        ("too_short", ""),
        ("wrong_language", "一辆红色的自行车靠在砖墙上。"),
        ("preamble", "Sure! Here's a detailed description of the image: a cat."),
        ("preamble", "Here is the caption you asked for:\n\nA cat on a sofa."),
        ("preamble", "Certainly, a cat sleeps on the sofa."),
    ],
)
def test_what_is_odd_is_flagged(flag: str, text: str) -> None:
    assert flag in flags_of(text, prompt="Describe this in detail.", finish_reason="stop")


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("refusal", "抱歉，我无法描述这张图片中的人物。"),
        ("refusal", "很抱歉，作为一个人工智能，我不能识别。"),
        ("repetition", "一只猫坐在沙发上，一只猫坐在沙发上，一只猫坐在沙发上，一只猫坐在沙发上，"),
        ("too_short", "猫"),
        ("wrong_language", "A red bicycle leans against a brick wall."),
        ("preamble", "好的，以下是对这张图片的描述：一只猫。"),
    ],
)
def test_and_in_chinese(flag: str, text: str) -> None:
    assert flag in flags_of(text, prompt="请用中文描述一下这张图片", finish_reason="stop")


def test_a_text_that_was_cut_off_and_one_that_is_no_json() -> None:
    assert flags_of("A red bicycle", prompt="x y", finish_reason="length") == ["truncated"]
    assert flags_of("A red bicycle", prompt="x y", finish_reason="stop", schema=True) == ["not_json"]
    assert flags_of('{"a": 1}', prompt="描述", finish_reason="stop", schema=True) == []


def test_long_texts_are_looked_through_at_once() -> None:
    text = "".join(f"Item {n} lies beside item {n + 1}; " for n in range(4000))
    assert flags_of(text, prompt="Describe", finish_reason="stop") == []


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("Sure! Here's a description: a cat sleeps.", "A cat sleeps."),
        ("The image shows a **red** cat.\n\n- It sleeps.\n- It purrs.", "A red cat. It sleeps. It purrs."),
        ("In this picture, a cat sleeps.", "A cat sleeps."),
        ("# Title\nA `cat`.", "Title A cat."),
        ("这张图片展示了一只猫。", "一只猫。"),
        ("好的，以下是描述：图片中有一只猫。", "有一只猫。"),
        ("A cat, 3 * 4 = 12, snake_case.", "A cat, 3 * 4 = 12, snake_case."),
        ("The imagery is rich.", "The imagery is rich."),
    ],
)
def test_plain_takes_off_what_is_no_description(said: str, left: str) -> None:
    assert plain(said) == left


def test_a_text_is_dressed_for_training() -> None:
    question = Question("x", preset=Preset.TRAIN, prefix="<", suffix=">", trigger="ohwx")

    assert question.trimmed("The image shows a dog.") == "<ohwx, A dog.>"
    assert question.trimmed("An OHWX dog.") == "<An OHWX dog.>"


@pytest.mark.parametrize(
    ("locale", "begins"), [({"LANG": "zh_CN.UTF-8"}, "请"), ({"LC_ALL": "C", "LANG": "zh_CN"}, "Desc"), ({}, "Desc")]
)
def test_the_prompt_is_in_the_language_of_the_locale(locale: dict[str, str], begins: str) -> None:
    assert default_prompt(None, locale).startswith(begins)


def test_the_same_file_and_request_make_the_same_job() -> None:
    asked = Question("x")
    key = asked.key("a.jpg", "00", run=0, series="m")

    assert key == Question("x").key("a.jpg", "00", run=0, series="m")
    others = [asked.key("b.jpg", "00", run=0, series="m"), asked.key("a.jpg", "01", run=0, series="m")]
    others += [asked.key("a.jpg", "00", run=1, series="m"), Question("y").key("a.jpg", "00", run=0, series="m")]
    assert len({key, *others}) == 5
