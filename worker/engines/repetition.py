"""When a model has lost itself in a loop: the same few tokens, again and again, to the end of its room. Pure.

A corpus decides the bounds, see ``tests/unit/test_repetition.py``: the rows of an empty form, dotted lines and columns of zeros
repeat themselves, too, and are not cut.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_PATTERN = 64  #: tokens that are said again and again: a sentence or two
#: How often before it counts. So large that it also costs nothing: an answer of 128 tokens is looked at for two patterns.
MIN_COUNT = 48


def repeats_itself(tokens: Sequence[int]) -> bool:
    """Say whether a text ends in a loop, by the rule of vLLM's own ``repetition_detection``."""
    for size in range(1, min(MAX_PATTERN, len(tokens) // MIN_COUNT) + 1):
        if all(tokens[-n] == tokens[-n - size] for n in range(1, size * (MIN_COUNT - 1) + 1)):
            return True
    return False
