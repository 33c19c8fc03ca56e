"""Pixel limits: what the client asks for, inside what the checkpoint takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.messages import ImagePart, VideoPart
from worker.media.loader import blob_name, common_limits, reference_of

PIXELS = st.integers(1, 100_000_000)


@pytest.mark.parametrize(
    ("asked", "own", "common"),
    [
        ((200, 1000), (100, 2000), (200, 1000)),
        ((50, 5000), (100, 2000), (100, 2000)),
        ((50, 1000), (100, 2000), (100, 1000)),
        ((200, 5000), (100, 2000), (200, 2000)),
        ((1, 50), (100, 2000), (100, 2000)),  # nothing in common: the checkpoint decides
        ((3000, 5000), (100, 2000), (100, 2000)),
        ((1500, 500), (100, 2000), (100, 2000)),  # a client that swapped them
        ((500, 500), (100, 2000), (500, 500)),
    ],
)
def test_limits_are_those_that_both_sides_take(asked: tuple[int, int], own: tuple[int, int], common: tuple[int, int]) -> None:
    assert common_limits(asked, own) == common


@given(asked=st.tuples(PIXELS, PIXELS), own=st.tuples(PIXELS, PIXELS).map(sorted).map(tuple))
def test_the_checkpoints_limits_are_never_left(asked: tuple[int, int], own: tuple[int, int]) -> None:
    low, high = common_limits(asked, own)

    assert own[0] <= low <= high <= own[1]


def test_references_are_found_where_they_were_stored() -> None:
    assert blob_name("file-0198") == "uploads/file-0198"
    assert blob_name("blob:inline/job_1-0") == "inline/job_1-0"
    assert reference_of(ImagePart(type="image", image="a")) == "a"
    assert reference_of(VideoPart(type="video", video="b")) == "b"
