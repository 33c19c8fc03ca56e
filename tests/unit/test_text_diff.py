"""What a stream has told of a text that may begin again, beside the plain way to say it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.openai.streams import TextDiff
from shared.errors import StreamBroken

#: A text's pieces; None is where the job begins again.
STEPS = st.lists(st.none() | st.text("ab", max_size=3), max_size=20)


def told_plainly(steps: list[str | None]) -> str | None:
    """Say what a reader has been told in the end; None where he cannot be told the truth."""
    told = text = ""
    for step in steps:
        text = "" if step is None else text + step
        if not told.startswith(text[: len(told)]):
            return None
        told = max(told, text, key=len)
    return told


@given(STEPS)
def test_a_reader_is_told_what_is_new(steps: list[str | None]) -> None:
    diff, told = TextDiff(), ""
    try:
        for step in steps:
            if step is None:
                diff.restart()
            else:
                told += diff.add(step)
    except StreamBroken:
        assert told_plainly(steps) is None
        return
    assert told == told_plainly(steps)
    assert diff.end(told + "c") == "c"
    if told:
        with pytest.raises(StreamBroken):
            TextDiff.end(diff, "")
