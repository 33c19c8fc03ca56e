"""How far a run is: bars on a terminal, lines of JSON for scripts, one sentence at the end."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from sightline.describe.row import Row
from sightline.screen import bad, note, notes

#: What a rate is taken over: long enough to be steady, short enough to follow.
RATE_S = 30.0
LINE = 24  #: columns of the bar, where the terminal has room
SAY_EVERY_S = 1.0


class Tally:
    """Counts rows. ``total`` is of the files that were found so far, ``before`` of those that the output had."""

    def __init__(self) -> None:
        """Begin."""
        self.total = self.before = self.failed_before = self.done = self.failed = self.flagged = self.same = 0
        self.output_tokens = self.prompt_tokens = 0
        self.flags, self.codes = Counter[str](), Counter[str]()
        self._began_s = time.monotonic()
        self._recent: deque[tuple[float, int]] = deque([(self._began_s, 0)])

    def count(self, row: Row, *, is_copy: bool) -> None:
        """Count a row; a copy took no work of the service."""
        self.done += row.is_good
        self.failed += not row.is_good
        self.flagged += bool(row.flags)
        self.flags.update(row.flags)
        if row.error:
            self.codes[str(row.error.get("code"))] += 1
        self.same += is_copy
        if not is_copy:
            self.output_tokens += row.usage.get("output_tokens", 0)
            self.prompt_tokens += row.usage.get("prompt_tokens", 0)
        now_s = time.monotonic()
        if now_s - self._recent[-1][0] > 1:
            self._recent.append((now_s, self.ended))
            while now_s - self._recent[0][0] > RATE_S:
                self._recent.popleft()

    @property
    def ended(self) -> int:
        """How many have a row from this run."""
        return self.done + self.failed

    @property
    def rate(self) -> float:
        """Rows a second, lately."""
        since_s, count = self._recent[0]
        return (self.ended - count) / max(time.monotonic() - since_s, 0.001)

    @property
    def left(self) -> int:
        """How many that were found have no row."""
        return self.total - self.before - self.ended

    @property
    def left_s(self) -> float | None:
        """Seconds to the end at this rate; None where that is not known."""
        return self.left / self.rate if self.left and self.rate > 0 and self.ended else None

    def as_json(self, event: str) -> dict[str, object]:
        """Give the counts for scripts."""
        left_s = self.left_s
        return {
            "event": event,
            "total": self.total,
            "done": self.done,
            "failed": self.failed,
            "flagged": self.flagged,
            "skipped": self.before,
            "per_s": round(self.rate, 2),
            "left_s": None if left_s is None else round(left_s),
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
        }

    def sentence(self) -> str:
        """Give the counts for people."""
        parts = [f"{self.done:,} described"]
        if self.failed:
            codes = ", ".join(f"{n} {code}" for code, n in self.codes.most_common(5))
            parts.append(f"{self.failed:,} failed" + (f" ({codes})" if self.failed > FEW else ""))
        if self.flagged:
            parts.append(f"{self.flagged:,} flagged (" + ", ".join(f"{n} {flag}" for flag, n in self.flags.most_common()) + ")")
        if self.before:
            failed = f" ({self.failed_before:,} of them failed; --retry-failed tries them again)" if self.failed_before else ""
            parts.append(f"{self.before:,} done before{failed}")
        return ", ".join(parts)


FEW = 5  #: failures that were all shown one by one


class Display:
    """Shows a tally while its ``with`` block runs: bars where standard error is a terminal, JSON where that is wanted."""

    def __init__(self, tally: Tally, *, as_json: bool) -> None:
        """Show nothing yet."""
        self.tally, self.is_json = tally, as_json
        self._said_s = time.monotonic()
        self._line = BarColumn(bar_width=_line_columns())
        columns = (TextColumn("{task.description}"), self._line, TextColumn("{task.fields[counts]}"))
        self._bars = Progress(*columns, console=notes, transient=True, redirect_stdout=False, redirect_stderr=False)
        self._bar = self._bars.add_task("looking", total=None, counts="")
        self._is_on = notes.is_terminal and not as_json

    def __enter__(self) -> Self:
        """Begin to show."""
        if self._is_on:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Clear the bars away."""
        if self._is_on:
            self._bars.stop()

    def update(self, doing: str) -> None:
        """Show what is counted by now."""
        tally = self.tally
        if self._is_on:
            self._line.bar_width = _line_columns()
            room = notes.width - len(doing) - self._line.bar_width - 3
            self._bars.update(
                self._bar,
                description=doing,
                total=tally.total or None,
                completed=tally.before + tally.ended,
                counts=_summary(tally, room).markup,
            )
        elif self.is_json and time.monotonic() - self._said_s > SAY_EVERY_S:
            self._said_s = time.monotonic()
            self.say("progress")

    def say(self, event: str, **more: object) -> None:
        """Print the counts for scripts."""
        print(json.dumps(self.tally.as_json(event) | more, ensure_ascii=True), file=sys.stderr, flush=True)

    @contextmanager
    def off_screen(self) -> Iterator[None]:
        """Take the bars away while a line goes to the same terminal, so that neither cuts the other."""
        shared = self._is_on and sys.stdout.isatty()
        if shared:
            self._bars.stop()
        yield
        if shared:
            self._bars.start()

    def failure(self, row: Row) -> None:
        """Tell of a file that failed; for scripts it stands in its row."""
        if self.is_json:
            return
        error = row.error or {}
        bad(f"{row.path}: {error.get('message') or row.status} ({error.get('code') or row.status})")

    def note(self, text: str) -> None:
        """Tell something that is no count."""
        if self.is_json:
            self.say("note", message=text)
        else:
            note(text)


def _line_columns() -> int:
    return min(LINE, notes.width // 5)


def _summary(tally: Tally, room: int) -> Text:
    """Write the counts; what a narrow terminal has no room for is left out, the least important first."""
    parts = {"count": Text(f"{tally.before + tally.ended:,}/{tally.total:,}")}
    if tally.failed:
        parts["failed"] = Text(f"{tally.failed:,} failed", "red")
    if tally.flagged:
        parts["flagged"] = Text(f"{tally.flagged:,} flagged", "yellow")
    if tally.ended:
        parts["rate"] = Text(f"{tally.rate:.1f}/s")
    if (left_s := tally.left_s) is not None:
        hours, rest = divmod(round(left_s), 3600)
        parts["left"] = Text((f"{hours}:" if hours else "") + f"{rest // 60:02}:{rest % 60:02} left")
    if tally.output_tokens:
        parts["tokens"] = Text(f"{tally.output_tokens:,} tokens")
    for least in ("tokens", "rate", "flagged", "left", "failed"):
        if len(whole := Text(" · ").join(parts.values())) <= room:
            return whole
        parts.pop(least, None)
    return parts["count"]
