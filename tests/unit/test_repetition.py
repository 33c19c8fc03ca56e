"""A loop is seen, and what repeats itself rightly is not: tables, lists, dotted lines, columns of numbers, poems."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engines.repetition import MAX_PATTERN, MIN_COUNT, repeats_itself

_numbers = {}
_next = count()


def tokens(text: str) -> list[int]:
    """Number each word, mark and line break, as coarsely as a tokenizer may: the coarser, the sooner a text repeats itself."""
    words = text.replace("\n", " \n ").replace("|", " | ").replace(",", " , ").split(" ")
    return [_numbers.setdefault(word, next(_next)) for word in words if word]


#: What people have read out of pictures.
RIGHT = {
    "a table of numbers": "\n".join(f"| {n} | {n * 7 % 13} | {n * n} |" for n in range(400)),
    "a form with 40 empty rows": "| Name | Date | Sum |\n" + "|  |  |  |\n" * 40,
    "a table with a column of zeros": "\n".join(f"| {n} | 0 | 0 |" for n in range(200)),
    "40 rows that are the same": "yes, 0, 0\n" * 40,
    "a row of zeros": "0," * 20,
    "a list": "\n".join(f"- item {n}" for n in range(300)),
    "a list of the same shapes": "\n".join(f"{n}. A red circle." for n in range(300)),
    "a dotted line": "Chapter One " + ". " * 40 + "17",
    "a rule": "- " * 40,
    "a song": "Row, row, row your boat, gently down the stream.\n" * 12,
    "code": "\n".join(f"    case {n}: return {n % 2};" for n in range(200)),
    "laughter": "ha " * 40,
    "Chinese": "\n".join(f"第{n}行：圆形，红色。" for n in range(200)),
    "nothing": "",
}
WRONG = {
    "a word": "the " * 60,
    "a sentence": "A red circle in the centre. " * 60,
    "a row": "|  |  |  |\n" * 60,
    "after a good beginning": RIGHT["a table of numbers"] + "\n" + "| 0 | 0 |\n" * 60,
    "a long sentence": " ".join(f"w{n}" for n in range(MAX_PATTERN - 1)).join([" "] * 80),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_repeats_itself_rightly_is_never_cut(name: str) -> None:
    said = tokens(RIGHT[name])

    assert not any(repeats_itself(said[:n]) for n in range(len(said) + 1))


@pytest.mark.parametrize("name", WRONG)
def test_a_loop_is_seen_before_long(name: str) -> None:
    said = tokens(WRONG[name])

    first = next(n for n in range(len(said) + 1) if repeats_itself(said[:n]))

    assert first <= len(said)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=MAX_PATTERN), st.lists(st.integers(4, 9), max_size=30))
def test_a_pattern_counts_once_it_came_often_enough(pattern: list[int], before: list[int]) -> None:
    assert repeats_itself(before + pattern * MIN_COUNT)
    if len(set(pattern)) == len(pattern):
        assert not repeats_itself(before + pattern * (MIN_COUNT - 1))
