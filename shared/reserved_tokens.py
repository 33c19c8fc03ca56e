"""Words that steer a model instead of being read by it, which no user may write. Pure.

A picture stands in a prompt as ``<|image_pad|>`` and a turn ends with ``<|im_end|>``: written by a user, the first would
take the place of a picture and the second would forge a turn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

#: How Qwen's tokenizers spell them, and those of most other families. The worker asks the model's own tokenizer as well.
MARKER = re.compile(r"<\|\w{1,64}\|>")


def find_reserved(parts: Sequence[str | None], reserved: re.Pattern[str] = MARKER) -> tuple[int, str] | None:
    """Look for a reserved word in one message, also where it is split over texts that follow each other.

    Args:
        parts: the message's texts in order, None for a picture or video.
        reserved: matches every reserved word.

    Returns:
        Which part the first one begins in, and the word; None where there is none.
    """
    shown = ["\n" if part is None else part for part in parts]
    found = reserved.search("".join(shown))
    if found is None:
        return None
    end = 0
    for n, text in enumerate(shown):
        end += len(text)
        if found.start() < end:
            return n, found.group()
    return None
