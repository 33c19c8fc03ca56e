"""Which files of a folder that is watched seem to be written to their end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from sightline.describe.sources import Found, facts_of

#: How often a folder that is watched is looked through, and how long a file must not have changed to be whole.
LOOK_EVERY_S, SETTLED_S = 2.0, 1.0


class Watcher:
    """Looks at the same files again and again; those that are too young are remembered from one look to the next."""

    def __init__(self) -> None:
        """Know no file."""
        self._young = dict[str, str]()

    def settled(self, part: Iterable[Found]) -> Iterator[tuple[Found, str]]:
        """Give files that seem whole, each with what it is like.

        They have not changed for a while, or not since the last look: the clock of a share may be ahead of ours.
        """
        for found in part:
            path, place, _ = found
            try:
                facts = facts_of(place) if place else None
            except OSError:
                facts = None  # which is told when it is its turn
            stamp = f"{facts.st_size} {facts.st_mtime_ns}" if facts else ""
            if facts and not time.time() - facts.st_mtime > SETTLED_S and self._young.get(path) != stamp:
                self._young[path] = stamp
            else:
                self._young.pop(path, None)
                yield found, stamp
