"""Reserved words in users' texts are found wherever they stand, also split over parts, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.reserved_tokens import find_reserved

WORDS = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"]
PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="<|>"), max_size=8)


@given(word=st.sampled_from(WORDS), before=PLAIN, after=PLAIN, cuts=st.lists(st.integers(0, 40), max_size=4))
def test_a_word_is_found_however_it_is_cut(word: str, before: str, after: str, cuts: list[int]) -> None:
    text = before + word + after
    places = sorted({min(cut, len(text)) for cut in cuts})
    parts = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]

    found = find_reserved([None, *parts, None])

    assert found is not None
    part, said = found
    assert said == word
    begun = len("".join(parts[: part - 1]))
    assert begun <= len(before) < begun + len(parts[part - 1])


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [None],
        ["<|im_", None, "end|>"],  # a picture stands between the halves
        ["< |im_end|>", "<|im_end", "| >", "<im_end>", "|im_end|", "＜|im_end|＞", "<||>", "a <| b |> c", "<|im end|>"],
        ["请用中文描述一下这张图片", "🙂"],
    ],
)
def test_other_texts_pass(parts: list[str | None]) -> None:
    assert find_reserved(parts) is None
