"""How the command line speaks: data on stdout as they are, notes and progress on stderr."""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

notes = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
#: Where nobody sees a counter, a line says that it still goes on.
SAY_AGAIN_S = 15.0


class Failure(Exception):
    """A command cannot do what it was asked for; the message says why, and what to do."""


#: What a terminal obeys, and may stand in an answer or a file's name: to move its cursor, to set its title, to answer as if
#: somebody had typed. Lines and tabs are none of that.
_ORDERS = {n: f"\\x{n:02x}" for n in (*range(32), *range(127, 160)) if chr(n) not in "\n\t"}


def note(text: str, *, style: str = "") -> None:
    """Print a note; brackets in it stay as they are, and orders to the terminal are shown."""
    notes.print(escape(text.translate(_ORDERS)), style=style)


def bad(text: str) -> None:
    """Print a note of something that went wrong."""
    notes.print(f"[red]✗[/] {escape(text.translate(_ORDERS))}")


def print_text(text: str, *, end: str = "\n") -> None:
    """Print what a model or a stranger wrote: as it is, but on a terminal orders to it are shown."""
    print(text.translate(_ORDERS) if sys.stdout.isatty() else text, end=end, flush=True)


#: How names that are not UTF-8 go out: as the bytes that they came as, and half surrogate pairs, out of JSON, as escapes.
AS_IT_CAME = "sightline.as-it-came"


def _as_it_came(error: UnicodeError) -> tuple[str | bytes, int]:
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


codecs.register_error(AS_IT_CAME, _as_it_came)

#: What our own lines have that a terminal of another encoding may lack: a Chinese one (GBK) has no ✗.
_PLAIN = {"✓": "ok", "✗": "!!", "…": "...", "·": "-", "→": "->"}
PLAINLY = "sightline.plainly"


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError) and (plain := _PLAIN.get(error.object[error.start])):
        return plain, error.start + 1
    return codecs.lookup_error("backslashreplace")(error)


codecs.register_error(PLAINLY, _plainly)


def set_up_streams() -> None:
    """Let no character end a command: names that are not UTF-8 go out as they came, and other encodings show escapes."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed, as by `>&-`
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115  # as long as the process lives
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=AS_IT_CAME if _is_utf8(stream.encoding) else PLAINLY)


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Print JSON that any reader takes, whatever the terminal's encoding."""
    text = json.dumps(value, ensure_ascii=not _is_utf8(sys.stdout.encoding), indent=indent)
    print(text.encode("utf-8", "backslashreplace").decode(), flush=True)  # a lone surrogate becomes JSON's own escape


def _is_utf8(encoding: str | None) -> bool:
    return (encoding or "").lower().replace("-", "") == "utf8"


def counted(n: int, one: str) -> str:
    """Name so many things."""
    return f"{n:,} {one}" + ("" if n == 1 else "s")


class Waiting:
    """Says what is being waited for: with a counter of seconds on a terminal, elsewhere in lines."""

    def __init__(self) -> None:
        """Show nothing yet."""
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        self._bar = Progress(*columns, console=notes, transient=True, redirect_stdout=False, redirect_stderr=False)
        self._task = self._bar.add_task("")
        self._said, self._began_s, self._again_s = "", time.monotonic(), 0.0

    def __call__(self, text: str) -> None:
        """Say it, unless it was said just now."""
        now_s = time.monotonic()
        if text != self._said:
            self._began_s = now_s
            self._bar.reset(self._task, description=text)
        if notes.is_terminal:
            self._said = text
        elif text != self._said or now_s > self._again_s:
            waited_s = round(now_s - self._began_s)
            note(f"… {text}" + (f" ({waited_s} s)" if waited_s else ""))
            self._said, self._again_s = text, now_s + SAY_AGAIN_S

    def __enter__(self) -> Self:
        """Begin to show."""
        if notes.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Clear the line away."""
        if notes.is_terminal:
            self._bar.stop()
