"""When the packets of a video are shown: what its container says is checked, since many lie or say nothing. Pure."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property

#: A clock that goes back so far, or forward, was set anew: two recordings in one file.
_BACK_S, _FORWARD_S = 0.5, 3600.0


@dataclass
class Packets:
    """The packets of a track as they lie in the file: when each is shown, in units of ``unit_s``, and where one can begin."""

    unit_s: float
    step_s: float  #: what the container says a frame takes
    by_order: bool = False
    stamps: array[int] = field(default_factory=lambda: array("q"))
    keys: list[int] = field(default_factory=list)
    _clock: int | None = None  #: as the newest packet has it, and by how much it is wrong
    _shift: int = 0

    def add(self, shown: int | None, decoded: int | None, *, is_key: bool) -> None:
        """Add the next one.

        Args:
            shown: when its frame is shown; None where the container does not say.
            decoded: when it is to be decoded, which never goes back unless the clock was set anew.
            is_key: whether one can begin with it.
        """
        if is_key or not self.stamps:
            self.keys.append(len(self.stamps))
        step, clock = max(1, self.units(self.step_s)), decoded if decoded is not None else shown
        if clock is not None:
            if self._clock is not None and not -self.units(_BACK_S) <= clock - self._clock <= self.units(_FORWARD_S):
                self._shift += self._clock + step - clock
            self._clock = clock
        stamp = shown if shown is not None else decoded
        following = self.stamps[-1] + step if self.stamps else 0
        self.stamps.append(following if stamp is None else stamp + self._shift)

    def straighten(self) -> None:
        """Let a clock run that stands still."""
        step = max(1, self.units(self.step_s))
        if len(self.stamps) > 1 and min(self.stamps) == max(self.stamps):
            self.stamps = array("q", range(0, len(self.stamps) * step, step))

    def units(self, seconds: float) -> int:
        """Give so many seconds in the track's own units."""
        return round(seconds / self.unit_s)

    @cached_property
    def shown(self) -> list[int]:
        """Give the places of the packets in the order in which they are shown."""
        return sorted(range(len(self.stamps)), key=self.stamps.__getitem__)

    @cached_property
    def times_s(self) -> list[float]:
        """Give when each frame is shown, the first one at 0."""
        first = self.stamps[self.shown[0]]
        return [(self.stamps[place] - first) * self.unit_s for place in self.shown]

    @cached_property
    def key_stamps(self) -> list[int]:
        """Give from when on one can begin at each key; a later key with an earlier time counts as the one before."""
        highest, found = self.stamps[self.keys[0]], list[int]()
        for place in self.keys:
            highest = max(highest, self.stamps[place])
            found.append(highest)
        return found

    def start_for(self, place: int) -> int:
        """Say from which packet on has to be decoded to see a frame."""
        if place == self.shown[-1]:  # it may be cut in two, and the one before it is seen instead
            place = self.shown[-2:][0]
        nearest = min(bisect_right(self.key_stamps, self.stamps[place]), bisect_right(self.keys, place)) - 1
        return self.keys[max(0, nearest)]
