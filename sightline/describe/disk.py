"""What a disk says that takes no more, as a sentence that says what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sightline.screen import Failure

AGAIN = "run the same command again once it can be written"


@contextmanager
def writing(path: Path, *, again: str = AGAIN) -> Iterator[None]:
    """Let what the disk says in the ``with`` block end the run.

    Raises:
        Failure: the disk is full, read-only or gone.
    """
    try:
        yield
    except OSError as error:  # Arrow's have a text of their own for strerror
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise Failure(f"cannot write {path}: {reason}; {again}") from error


@contextmanager
def moved_to(path: Path, *, again: str = AGAIN) -> Iterator[Path]:
    """Give a path beside this one to write to; it takes this one's place at the end, or is gone.

    Raises:
        Failure: the disk is full, read-only or gone.
    """
    other = path.with_name(f".{path.name[:200]}.new")
    try:
        with writing(path, again=again):
            yield other
            os.replace(other, path)  # noqa: PTH105  # it takes the old one's place
    finally:
        with suppress(OSError):
            other.unlink(missing_ok=True)
